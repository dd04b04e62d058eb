//! Compiles the .proto files without protoc and keeps the descriptors for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 12] = [
    "switchyard/agent/v1/agent.proto",
    "switchyard/agent/v1/policies.proto",
    "switchyard/agent/v1/health.proto",
    "switchyard/agent/v1/shifts.proto",
    "switchyard/agent/v1/enrollment.proto",
    "switchyard/api/v1/policy.proto",
    "switchyard/api/v1/cluster.proto",
    "switchyard/api/v1/errors.proto",
    "switchyard/api/v1/shift.proto",
    "switchyard/api/v1/safety.proto",
    "switchyard/api/v1/audit.proto",
    "switchyard/api/v1/access.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("switchyard_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
