//! What went wrong on the way to the hub, where no answer of it came, and what helps. Pure: reads the causes that a status carries.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError};
use tonic::{Code, Status, TimeoutExpired};

use crate::{
    error::{Exit, with_causes},
    hub::TlsError,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, or it broke.
    Broken,
    /// The hub's certificate is not of the CA that was named.
    UntrustedHub,
    /// It is good, and for another name.
    OtherName,
    /// Its time is over.
    Ended,
    /// Its time has not begun.
    NotYet,
    /// It is none for a server.
    Unfit,
    /// The hub does not take our certificate, or wants one.
    Unwelcome,
    /// What answers speaks no TLS 1.3.
    OldTls,
    /// What answers speaks TLS, and no gRPC.
    NotGrpc,
}

impl Trouble {
    /// Of a status that was made on this side: that carries its cause, one from the wire does not.
    pub fn of(status: &Status) -> Option<Self> {
        status.source()?;
        let causes = || causes_of(status);
        if causes().any(|error| error.is::<TimeoutExpired>()) {
            return None;
        }
        if causes().any(|error| matches!(error.downcast_ref(), Some(TlsError::NotHttp2))) {
            return Some(Self::NotGrpc);
        }
        // An alert that comes after the handshake, as that about a client's certificate in TLS 1.3, is handed on by HTTP/2 as text.
        let alerted = || with_causes(status).contains("received fatal alert");
        match causes().find_map(of_tls) {
            Some(rustls::Error::InvalidCertificate(why)) => Some(Self::of_certificate(why)),
            Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)) => Some(Self::OldTls),
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Some(Self::NotGrpc),
            Some(rustls::Error::AlertReceived(_)) => Some(Self::Unwelcome),
            _ if alerted() => Some(Self::Unwelcome),
            _ => match status.code() {
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => Some(Self::Broken),
                _ => None,
            },
        }
    }

    fn of_certificate(why: &CertificateError) -> Self {
        match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Ended,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYet,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
            // The same subject with another key is another authority, too.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UntrustedHub,
            _ => Self::Unfit,
        }
    }

    /// What the process ends with, and what helps. `again` says what a repeated call comes to.
    pub fn remedy(self, hub: &str, again: &str) -> (Exit, String) {
        let certificate =
            "of the hub (tls.crt in the Secret of its chart's tls.secretName, or the file of its --tls-cert)";
        let remedy = match self {
            Self::Broken => {
                let other_way = if hub.starts_with("http://") {
                    "; a hub that is not in development mode speaks TLS, also through kubectl port-forward: give https:// \
                     with --tls-ca, and with --tls-server-name the name that its certificate is for"
                } else {
                    "; where only its name or load balancer is away, go through kubectl port-forward, with --hub \
                     https://127.0.0.1:PORT and with --tls-server-name the name that its certificate is for"
                };
                format!("see that the hub at {hub} runs and that --hub is right, then try again{again}{other_way}")
            }
            Self::UntrustedHub => "give the CA that signed the hub's certificate with --tls-ca".to_owned(),
            Self::OtherName => {
                "see that --hub is right; where another address leads to the hub on purpose, such as the end of \
                                kubectl port-forward, give the name that its certificate is for with --tls-server-name"
                    .to_owned()
            }
            Self::Ended => format!(
                "renew the certificate {certificate}, which it reads again within a minute or two; or set the clock of this machine"
            ),
            Self::NotYet => format!("compare the clock of this machine with the certificate {certificate}"),
            Self::Unfit => format!("exchange the certificate {certificate} for one that is for servers"),
            Self::OldTls => {
                "see that --hub names the hub itself and no proxy that ends TLS: yardctl speaks TLS 1.3 only".to_owned()
            }
            Self::NotGrpc => "see that --hub names the port of the hub's gRPC".to_owned(),
            Self::Unwelcome => {
                let remedy = "give a client certificate that the hub trusts with --tls-cert and --tls-key";
                return (Exit::Denied, remedy.to_owned());
            }
        };
        (Exit::Unavailable, remedy)
    }
}

fn causes_of(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

/// The error of TLS in a cause; one of input and output holds it without calling it its source.
fn of_tls<'e>(cause: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    held.and_then(|held| held.downcast_ref()).or_else(|| cause.downcast_ref())
}
