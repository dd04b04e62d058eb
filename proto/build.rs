//! Compiles the .proto files without protoc, keeps the descriptors for gRPC reflection, and writes down what each message is made of,
//! so that `src/walk.rs` can weigh one before it is decoded.

use std::{collections::BTreeMap, env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

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
    fs::write(out.join("shapes.rs"), shapes(&descriptors)?)?;
    tonic_prost_build::configure().codec_path("crate::codec::Bounded").compile_fds(descriptors)?;
    Ok(())
}

/// A message and the size of its Rust type, as an expression.
struct Known<'a> {
    descriptor: &'a DescriptorProto,
    rust: Option<String>,
    size: String,
}

/// The table of `src/walk.rs`, in Rust.
fn shapes(set: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut known = BTreeMap::new();
    for file in &set.file {
        let package = file.package();
        for descriptor in &file.message_type {
            let rust = match package {
                "google.protobuf" => format!("::prost_types::{}", descriptor.name()),
                // Both packages are modules of this crate, see src/lib.rs.
                _ => format!(
                    "crate::{}::{}",
                    package.trim_start_matches("switchyard.").replace('.', "::"),
                    descriptor.name()
                ),
            };
            let name = format!(".{package}.{}", descriptor.name());
            for nested in &descriptor.nested_type {
                if !nested.options.as_ref().is_some_and(|options| options.map_entry()) {
                    return Err(format!(
                        "{name}.{}: write messages side by side, not within one another",
                        nested.name()
                    )
                    .into());
                }
                // A key, a value and their place in the map; the texts in them are weighed for themselves.
                let entry = Known { descriptor: nested, rust: None, size: "96".to_owned() };
                known.insert(format!("{name}.{}", nested.name()), entry);
            }
            let size = format!("::core::mem::size_of::<{rust}>()");
            let ours = (package != "google.protobuf").then_some(rust);
            known.insert(name, Known { descriptor, rust: ours, size });
        }
    }
    let place: BTreeMap<&str, usize> = known.keys().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let (mut table, mut impls) = (String::new(), String::new());
    for (name, known) in &known {
        let mut fields = String::new();
        for field in &known.descriptor.field {
            if let Some(part) = part(field, &place)? {
                write!(fields, "({}, Part::{part}), ", field.number())?;
            }
        }
        writeln!(
            table,
            "    Shape {{ size: {}, fields: &[{}] }}, // {name}",
            known.size,
            fields.trim_end_matches(", ")
        )?;
        if let Some(rust) = &known.rust {
            writeln!(impls, "impl Shaped for {rust} {{ const SHAPE: usize = {}; }}", place[name.as_str()])?;
        }
    }
    Ok(format!("static SHAPES: &[Shape] = &[\n{table}];\n{impls}"))
}

/// What a field takes beside its place in its message; none: nothing.
fn part(field: &FieldDescriptorProto, place: &BTreeMap<&str, usize>) -> Result<Option<String>, Box<dyn Error>> {
    let is_list = field.label() == Label::Repeated;
    Ok(match field.r#type() {
        Type::Message | Type::Group => {
            let of = place.get(field.type_name()).ok_or_else(|| format!("{} is in no file", field.type_name()))?;
            Some(format!("Message({of})"))
        }
        Type::String | Type::Bytes if is_list => Some("Texts".to_owned()),
        Type::String | Type::Bytes => Some("Text".to_owned()),
        _ if is_list => return Err(format!("{}: src/walk.rs does not weigh lists of numbers yet", field.name()).into()),
        _ => None,
    })
}
