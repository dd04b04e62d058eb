//! Generated protobuf and gRPC types, one module per package, and the codec that reads them within bounds. Nothing else lives here.

pub mod codec;
pub mod walk;

/// The stream between agents and the hub.
pub mod agent {
    /// Version 1.
    #[allow(clippy::all, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("switchyard.agent.v1");
    }
}

/// The API for people, CD systems and the command line.
pub mod api {
    /// Version 1.
    #[allow(clippy::all, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("switchyard.api.v1");
    }
}

/// All descriptors, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/switchyard_descriptor.bin"));
