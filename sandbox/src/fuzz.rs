//! What the fuzz target of the folder `fuzz/` reaches of this crate: the functions that read a request, and nothing that has an
//! effect. No part of the sandbox uses this module.

pub use crate::{
    cloudwatch::cbor::read as cbor,
    elb::{
        actions::parse_all as actions, conditions::parse_all as conditions, limits::Limits, query::Params, xml::Xml,
    },
};
