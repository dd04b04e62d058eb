//! What is stored about access, as the API shows it. Pure.

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use switchyard_core::{
    access::{Grant, Grants, Role, Span, authority},
    ids::cut,
};
use switchyard_proto::api::v1 as proto;

use super::super::convert::to_proto_time;
use crate::{
    access::Access,
    door::peer::fingerprint,
    store::access::{
        authorities::StoredAuthority, certificates::StoredCertificate, join_tokens::StoredJoinToken,
        service_tokens::StoredServiceToken,
    },
};

pub fn whoami(access: &Access) -> proto::WhoAmIResponse {
    proto::WhoAmIResponse {
        identity: access.identity().to_string(),
        method: access.identity().method().to_owned(),
        grants: to_proto_grants(access.grants()),
        expires_at: access.expires_at().map(to_proto_time),
    }
}

fn to_proto_grants(grants: &Grants) -> Vec<proto::Grant> {
    grants.0.iter().map(to_proto_grant).collect()
}

fn to_proto_grant(grant: &Grant) -> proto::Grant {
    let role = match grant.role {
        Role::Viewer => proto::Role::Viewer,
        Role::Operator => proto::Role::Operator,
        Role::Admin => proto::Role::Admin,
    };
    proto::Grant {
        role: role.into(),
        namespaces: names(&grant.namespaces),
        clusters: names(&grant.clusters),
        overrides: grant.overrides,
    }
}

fn names<T: Ord + ToString>(span: &Span<T>) -> Vec<String> {
    match span {
        Span::All => vec!["*".to_owned()],
        Span::Only(names) => names.iter().map(ToString::to_string).collect(),
    }
}

pub fn to_proto_join_token(token: &StoredJoinToken) -> proto::JoinToken {
    proto::JoinToken {
        id: token.id.clone(),
        cluster: token.cluster.to_string(),
        created_by: token.created_by.clone(),
        created_at: Some(to_proto_time(token.created_at)),
        expires_at: Some(to_proto_time(token.expires_at)),
        used_at: token.used_at.map(to_proto_time),
        revoked_at: token.revoked_at.map(to_proto_time),
    }
}

pub fn to_proto_certificate(stored: &StoredCertificate) -> proto::AgentCertificate {
    let certificate = &stored.certificate;
    proto::AgentCertificate {
        serial: certificate.serial.clone(),
        cluster: certificate.cluster.to_string(),
        fingerprint: certificate.fingerprint.clone(),
        authority: certificate.authority.clone(),
        agent_instance_id: certificate.instance.clone(),
        proof: stored.proof.clone(),
        issued_at: Some(to_proto_time(certificate.issued_at)),
        not_after: Some(to_proto_time(certificate.not_after)),
        revoked_at: stored.revoked_at.map(to_proto_time),
        revoked_by: stored.revoked_by.clone(),
    }
}

pub fn to_proto_service_token(token: &StoredServiceToken) -> proto::ServiceToken {
    proto::ServiceToken {
        name: token.name.clone(),
        id: token.id.clone(),
        grants: to_proto_grants(&token.grants),
        created_by: token.created_by.clone(),
        created_at: Some(to_proto_time(token.created_at)),
        expires_at: Some(to_proto_time(token.expires_at)),
        last_used_at: token.last_used_at.map(to_proto_time),
        revoked_at: token.revoked_at.map(to_proto_time),
    }
}

/// The newest first.
pub fn to_proto_authorities(stored: &[StoredAuthority], now: Timestamp) -> Vec<proto::Authority> {
    let all: Vec<authority::Authority> = stored.iter().map(StoredAuthority::judged).collect();
    let issuing = authority::issuing(&all, now).map(|one| one.id.as_str());
    let show = |(one, judged): (&StoredAuthority, &authority::Authority)| {
        let until = authority::trusted_until(judged, &all, now);
        let id = &one.authority.id;
        proto::Authority {
            id: id.clone(),
            fingerprint: fingerprint_of(&one.authority.certificate_pem, id),
            issuing: issuing == Some(id.as_str()),
            external: one.authority.sealed_key.is_none(),
            created_at: Some(to_proto_time(one.created_at)),
            not_after: Some(to_proto_time(one.authority.not_after)),
            trusted_until: (until < one.authority.not_after).then(|| to_proto_time(until)),
            certificate_pem: one.authority.certificate_pem.clone(),
        }
    };
    stored.iter().zip(&all).map(show).rev().collect()
}

/// Of the issuing certificate, the first of its chain.
fn fingerprint_of(pem: &str, id: &str) -> String {
    match CertificateDer::from_pem_slice(pem.as_bytes()) {
        Ok(der) => fingerprint(&der),
        Err(error) => {
            tracing::error!(authority = cut(id), %error, "a stored authority cannot be read");
            String::new()
        }
    }
}
