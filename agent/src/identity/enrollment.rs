//! Asks the hub for certificates: `EnrollmentService` of the API. Takes no answer at its word that is not for this cluster and this key.

use std::time::Duration;

use switchyard_proto::agent::v1::{
    EnrollRequest, IssuedCertificate, RenewCertificateRequest, enroll_request::Proof as Wire,
    enrollment_service_client::EnrollmentServiceClient,
};
use tonic::{Code, Status};

use super::{
    machine::Heard,
    material,
    values::{Certificate, Identity, JoinToken, Key},
};
use crate::{
    link::transport::{Dialer, certificate_was_refused},
    text::{causes, truncated},
};

/// The hub signs with a key that it has in memory, after one transaction.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A chain is a few kB.
const MAX_ANSWER: usize = 128 * 1024;
/// Characters of the hub's words.
const MAX_WORDS: usize = 512;

/// What an enrolment is proved with.
pub enum Proof {
    /// A join token.
    JoinToken(JoinToken),
    /// The token of the agent's ServiceAccount.
    Account(String),
}

/// Why there is no certificate.
enum Failure {
    /// The hub does not take the proof.
    Refused(String),
    /// Anything else.
    Failed(String),
}

impl From<Failure> for Heard {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(words) => Self::Refused(words),
            Failure::Failed(words) => Self::Failed(words),
        }
    }
}

/// The service, as this agent asks it.
#[derive(Clone)]
pub struct Enrollment {
    /// How the hub is reached.
    pub dialer: Dialer,
    /// Name of this cluster.
    pub cluster: String,
    /// UUID of this process.
    pub instance_id: String,
}

impl Enrollment {
    /// Asks for the first certificate of this key.
    pub async fn enroll(&self, key: &Key, proof: Proof) -> Heard {
        let ask = async {
            let csr_pem = material::request(key, &self.cluster).map_err(|error| Failure::Failed(causes(&error)))?;
            let channel = self.dialer.connect_as(None).await.map_err(Failure::Failed)?;
            let proof = match proof {
                Proof::JoinToken(token) => Wire::JoinToken(token.reveal().to_owned()),
                Proof::Account(token) => Wire::ServiceAccountToken(token),
            };
            let request = EnrollRequest {
                cluster: self.cluster.clone(),
                proof: Some(proof),
                csr_pem,
                agent_instance_id: self.instance_id.clone(),
            };
            let mut client = EnrollmentServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            // An argument that the hub does not take is the proof, or the name that it is for.
            let refused = [Code::Unauthenticated, Code::PermissionDenied, Code::InvalidArgument];
            let answer = client.enroll(request).await.map_err(|status| failure(&status, &refused))?;
            self.certified(key, answer.into_inner().certificate)
        };
        within(ask).await
    }

    /// Asks for the next certificate, for this key, as the identity that the agent has.
    pub async fn renew(&self, key: &Key, with: &Identity) -> Heard {
        let ask = async {
            let csr_pem = material::request(key, &self.cluster).map_err(|error| Failure::Failed(causes(&error)))?;
            let channel = self.dialer.connect_as(Some(with)).await.map_err(Failure::Failed)?;
            let request = RenewCertificateRequest { csr_pem, agent_instance_id: self.instance_id.clone() };
            let mut client = EnrollmentServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            let refused = [Code::Unauthenticated, Code::PermissionDenied];
            let answer = client.renew_certificate(request).await.map_err(|status| failure(&status, &refused))?;
            self.certified(key, answer.into_inner().certificate)
        };
        within(ask).await
    }

    fn certified(&self, key: &Key, issued: Option<IssuedCertificate>) -> Result<Certificate, Failure> {
        let wrong = |what: String| Failure::Failed(format!("the hub's answer cannot be used: {what}"));
        let issued = issued.ok_or_else(|| wrong("it holds no certificate".to_owned()))?;
        let renew_at = issued.renew_at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
        let identity = material::identity(issued.chain_pem.as_bytes(), key.reveal().as_bytes(), renew_at)
            .map_err(|error| wrong(causes(&error)))?;
        let certificate = identity.certificate;
        if certificate.cluster.as_ref().is_some_and(|of| of != &self.cluster) {
            return Err(wrong(format!("the certificate is for another cluster than {}", self.cluster)));
        }
        Ok(certificate)
    }
}

async fn within(ask: impl Future<Output = Result<Certificate, Failure>>) -> Heard {
    match tokio::time::timeout(TIMEOUT, ask).await {
        Ok(Ok(certificate)) => Heard::Certified(certificate),
        Ok(Err(failure)) => failure.into(),
        Err(_) => Heard::Failed(format!("the hub did not answer within {} s", TIMEOUT.as_secs())),
    }
}

fn failure(status: &Status, refused: &[Code]) -> Failure {
    let words = truncated(&format!("{}: {}", status.code(), status.message()), MAX_WORDS);
    if refused.contains(&status.code()) || certificate_was_refused(status) {
        Failure::Refused(words)
    } else {
        Failure::Failed(words)
    }
}
