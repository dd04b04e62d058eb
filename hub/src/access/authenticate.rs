//! Who calls: what the connection and the `authorization` metadata prove. A token beats a certificate; with two tokens there is none.
//! What exactly was wrong is for the hub's log: a caller is told that his proof was not accepted, and nothing that helps to make a
//! better one.

use std::net::IpAddr;

use http::{HeaderMap, header::AUTHORIZATION};
use jiff::{SignedDuration, Timestamp};
use switchyard_core::{
    access::{
        AccessConfig, Grants, Identity, authority,
        config::Issuer,
        identity::cluster_of_spiffe,
        tokens::{Token, TokenKind},
    },
    ids::ClusterName,
};

use super::{
    book::{Books, TokenError},
    jwt::{self, Asked, JwtError, MOST_TOKEN, Verified},
    keys::{KeyError, KeySources},
    rates::{Rates, TooMany},
};
use crate::{
    door::{PeerCertificate, PeerInfo, RootSet},
    store::access::{AccessBook, authorities::StoredAuthority},
};

/// Bytes of the whole header: a token and its scheme.
const MOST_HEADER: usize = MOST_TOKEN + "Bearer ".len();
/// An open stream outlives the token that it was opened with for that long: watching programs need not reconnect each time that a
/// token of five minutes is renewed.
const STREAMS_AFTER_TOKEN: SignedDuration = SignedDuration::from_hours(1);
/// Bytes of an agent's ServiceAccount token, as the .proto file has it.
const MOST_ACCOUNT_TOKEN: usize = 8192;

/// What a caller proved himself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing.
    None,
    /// A certificate of the agents' authorities.
    AgentCertificate { serial: String, authority: String },
    /// A certificate of the callers' authority.
    CallerCertificate,
    /// A service token of this hub.
    ServiceToken { id: String },
    /// A token of an issuer.
    Jwt,
}

/// A caller, proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) identity: Identity,
    pub(super) grants: Grants,
    pub(super) credential: Credential,
    /// Of what was shown; none: never.
    pub(super) expires_at: Option<Timestamp>,
    /// Streams that were opened with it end then; none: never.
    pub(super) streams_end_at: Option<Timestamp>,
}

impl Proof {
    fn of(identity: Identity, grants: Grants, credential: Credential, ends: Option<(Timestamp, Timestamp)>) -> Self {
        let (expires_at, streams_end_at) = ends.unzip();
        Self { identity, grants, credential, expires_at, streams_end_at }
    }

    /// Nobody.
    pub(super) fn anonymous() -> Self {
        Self::of(Identity::Anonymous, Grants::none(), Credential::None, None)
    }

    /// Anybody on this machine.
    pub(super) fn development() -> Self {
        Self::of(Identity::Development, Grants::everything(), Credential::None, None)
    }
}

/// Why it is not known who calls. The texts are for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unproved {
    /// Nothing was shown.
    #[error("nothing was shown")]
    Nothing,
    /// The header.
    #[error("the authorization header is not usable: {0}")]
    Header(&'static str),
    /// A token that everybody on the way could read is everybody's.
    #[error("a token came over plain text")]
    PlainText,
    /// A service token.
    #[error(transparent)]
    Token(TokenError),
    /// A token of an issuer.
    #[error("the token of an issuer is not accepted: {0}")]
    Jwt(#[from] JwtError),
    /// A certificate.
    #[error("the client certificate {fingerprint} is not accepted: {problem}")]
    Certificate { fingerprint: String, problem: &'static str },
    /// Too many signatures from there were not good.
    #[error("it was not looked at: too many tokens from its address were not accepted")]
    Flood(TooMany),
    /// It cannot be found out now.
    #[error("{0}")]
    Away(String),
}

impl From<KeyError> for Unproved {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Token(error) => Unproved::Jwt(error),
            away @ KeyError::Away(_) => Unproved::Away(away.to_string()),
        }
    }
}

impl From<TokenError> for Unproved {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Away => Unproved::Away(error.to_string()),
            other => Unproved::Token(other),
        }
    }
}

/// What proofs are held against.
pub(super) struct Judge<'a> {
    pub(super) development: bool,
    pub(super) trust_domain: &'a str,
    pub(super) config: &'a AccessConfig,
    pub(super) books: &'a Books,
    pub(super) keys: &'a KeySources,
    pub(super) rates: &'a Rates,
    pub(super) now: Timestamp,
}

impl Judge<'_> {
    /// Who calls.
    pub(super) async fn proof(&self, peer: &PeerInfo, headers: &HeaderMap) -> Result<Proof, Unproved> {
        if let Some(token) = bearer(headers)? {
            if !peer.encrypted && !self.development {
                return Err(Unproved::PlainText);
            }
            return match token.starts_with("sys_") || token.starts_with("syj_") {
                true => self.service_token(token).await,
                false => self.issuer_token(token, Some(peer.address.ip())).await,
            };
        }
        match &peer.certificate {
            Some(certificate) => self.certificate(certificate),
            None if self.development => Ok(Proof::development()),
            None => Err(Unproved::Nothing),
        }
    }

    async fn service_token(&self, text: &str) -> Result<Proof, Unproved> {
        let token = Token::parse(text).ok_or(Unproved::Header("it is not the text of a service token"))?;
        if token.kind != TokenKind::Service {
            return Err(Unproved::Header("it is a join token, which is for agents"));
        }
        let booked = self.books.token(&token, self.now).await?;
        let identity = Identity::ServiceToken { name: booked.name };
        let ends = (booked.expires_at, booked.expires_at);
        Ok(Proof::of(identity, booked.grants, Credential::ServiceToken { id: token.id }, Some(ends)))
    }

    async fn issuer_token(&self, text: &str, source: Option<IpAddr>) -> Result<Proof, Unproved> {
        let token = jwt::parse(text)?;
        let issuer = self.config.issuers().iter().find(|issuer| issuer.issuer == token.issuer);
        let issuer = issuer.ok_or_else(|| JwtError::Issuer(token.issuer.clone()))?;
        let keys = self.keys.of(&issuer.issuer, &issuer.keys);
        let keys = keys.ok_or_else(|| Unproved::Away("the issuer is new and was not asked yet".to_owned()))?;
        let asked = Asked { issuer: &issuer.issuer, audiences: &issuer.audiences };
        // A signature is what costs here, and anybody can send one.
        self.rates.signatures_left(source).map_err(Unproved::Flood)?;
        let verified = keys.verify(token, asked, source, self.now).await;
        if let Err(KeyError::Token(_)) = &verified {
            // How many of them there were is asked before the next one.
            let _counted = self.rates.signature(source);
        }
        Ok(issuer_proof(self.config, issuer, &verified?)?)
    }

    fn certificate(&self, certificate: &PeerCertificate) -> Result<Proof, Unproved> {
        let bad = |problem| Unproved::Certificate { fingerprint: certificate.fingerprint.clone(), problem };
        // It was good at the handshake; a connection may last longer.
        if self.now >= certificate.not_after {
            return Err(bad("it has ended since the connection was made"));
        }
        let ends = Some((certificate.not_after, certificate.not_after));
        match certificate.set {
            RootSet::Agents => {
                let serial = certificate.serial.clone();
                let book = self.books.current();
                if book.revoked.contains_key(&serial) {
                    return Err(bad("it was revoked"));
                }
                // As at the handshake; a connection may outlive the trust in an authority.
                let authority = certificate.authority.clone().unwrap_or_default();
                if !is_trusted(&book, &authority, self.now) {
                    return Err(bad("its authority is not trusted any more"));
                }
                let cluster = self.cluster(&certificate.uris).ok_or_else(|| {
                    bad("it has not exactly one URI, spiffe://<trust domain>/cluster/<name>, among its alternative names")
                })?;
                let credential = Credential::AgentCertificate { serial: serial.clone(), authority };
                Ok(Proof::of(Identity::Agent { cluster, serial }, Grants::none(), credential, ends))
            }
            RootSet::Callers => {
                let identity = Identity::Certificate {
                    fingerprint: certificate.fingerprint.clone(),
                    common_name: certificate.common_name.clone(),
                    uris: certificate.uris.clone(),
                };
                let grants = self.config.grants_of(&identity);
                Ok(Proof::of(identity, grants, Credential::CallerCertificate, ends))
            }
        }
    }

    fn cluster(&self, uris: &[String]) -> Option<ClusterName> {
        match uris {
            [uri] => cluster_of_spiffe(uri, self.trust_domain),
            _ => None,
        }
    }
}

/// What a token of an issuer proves, once it is believed.
fn issuer_proof(config: &AccessConfig, issuer: &Issuer, verified: &Verified) -> Result<Proof, JwtError> {
    let identity = identity(issuer, verified)?;
    let grants = config.grants_of(&identity);
    let end = verified.expires_at;
    let streams_end = end.checked_add(STREAMS_AFTER_TOKEN).unwrap_or(end);
    Ok(Proof::of(identity, grants, Credential::Jwt, Some((end, streams_end))))
}

/// The caller that a token of an issuer names.
fn identity(issuer: &Issuer, verified: &Verified) -> Result<Identity, JwtError> {
    for (claim, wanted) in &issuer.required_claims {
        if verified.text(claim)? != wanted {
            return Err(JwtError::Claim(claim.clone()));
        }
    }
    Ok(Identity::Jwt {
        issuer: issuer.name.as_str().to_owned(),
        user: verified.user(&issuer.username_claim)?,
        groups: verified.groups(&issuer.groups_claim)?,
    })
}

/// The one token of the one header, when there is a header at all (RFC 6750, section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Unproved> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Unproved::Header("there are two of them"));
    }
    if value.len() > MOST_HEADER {
        return Err(Unproved::Header("it is longer than 16 KiB"));
    }
    let text = value.to_str().map_err(|_| Unproved::Header("it holds other characters than ASCII"))?;
    let (scheme, token) = text.split_once(' ').ok_or(Unproved::Header("it is not a scheme and a token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Unproved::Header("its scheme is not Bearer"));
    }
    let in_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    if token.is_empty() || !token.chars().all(in_token) {
        return Err(Unproved::Header("it is not one token"));
    }
    Ok(Some(token))
}

/// Whether certificates of this authority are believed now. One that the book does not hold is new, and was trusted at the handshake.
fn is_trusted(book: &AccessBook, authority: &str, now: Timestamp) -> bool {
    let judged: Vec<_> = book.authorities.iter().map(StoredAuthority::judged).collect();
    let known = judged.iter().any(|known| known.id == authority);
    !known || authority::trusted(&judged, now).iter().any(|trusted| trusted.id == authority)
}

/// Whether a proof of an open stream still holds, by the book.
pub(super) fn taken_back(proof: &Proof, book: &AccessBook, now: Timestamp) -> Option<super::streams::Ended> {
    use super::streams::Ended;
    match &proof.credential {
        Credential::AgentCertificate { serial, authority }
            if book.revoked.contains_key(serial) || !is_trusted(book, authority, now) =>
        {
            Some(Ended::CertificateRevoked)
        }
        // The book holds those that are good; one that is over is judged before.
        Credential::ServiceToken { id } if !book.tokens.contains_key(id) => Some(Ended::TokenRevoked),
        _ => None,
    }
}

/// Why a ServiceAccount token stands for no cluster. The texts are for the log; the agent is told only that it was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AccountRefused {
    /// The token.
    #[error("the ServiceAccount token is not accepted: {0}")]
    Token(#[from] JwtError),
    /// It is for another cluster than the agent says.
    #[error("the ServiceAccount token stands for cluster {found}, and the agent says that it is {said}")]
    OtherCluster {
        /// By the access file.
        found: ClusterName,
        /// By the agent.
        said: ClusterName,
    },
    /// The issuer's keys cannot be read now: try again.
    #[error("{0}")]
    Away(String),
}

impl From<KeyError> for AccountRefused {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Token(error) => AccountRefused::Token(error),
            away @ KeyError::Away(_) => AccountRefused::Away(away.to_string()),
        }
    }
}

/// The agent that a ServiceAccount token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// By the access file.
    pub cluster: ClusterName,
    /// The `sub` claim, `system:serviceaccount:<namespace>:<name>`: for the audit log.
    pub subject: String,
}

impl Judge<'_> {
    /// The cluster that a projected ServiceAccount token stands for.
    pub(super) async fn account(
        &self,
        text: &str,
        said: Option<&ClusterName>,
        source: Option<IpAddr>,
    ) -> Result<Account, AccountRefused> {
        if text.len() > MOST_ACCOUNT_TOKEN {
            return Err(JwtError::Shape("it is longer than 8192 bytes").into());
        }
        let token = jwt::parse(text)?;
        let subject = token.subject()?.to_owned();
        // Issuer and subject together are of one cluster at the most, as the access file is checked.
        let agents = self.config.agents().iter();
        let agent = agents.clone().find(|agent| agent.issuer == token.issuer && agent.subject == subject);
        let agent = agent.ok_or_else(|| match agents.clone().any(|agent| agent.issuer == token.issuer) {
            true => JwtError::Claim("sub".to_owned()),
            false => JwtError::Issuer(token.issuer.clone()),
        })?;
        let keys = self.keys.of(&agent.issuer, &agent.keys);
        let keys = keys.ok_or_else(|| AccountRefused::Away("the issuer is new and was not asked yet".to_owned()))?;
        let asked = Asked { issuer: &agent.issuer, audiences: &agent.audiences };
        let verified = keys.verify(token, asked, source, self.now).await?;
        if verified.text("sub")? != agent.subject {
            return Err(JwtError::Claim("sub".to_owned()).into());
        }
        let cluster = agent.cluster.clone();
        match said.filter(|said| **said != cluster) {
            Some(said) => Err(AccountRefused::OtherCluster { found: cluster, said: said.clone() }),
            None => Ok(Account { cluster, subject }),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_header_with_one_token_is_taken_whatever_the_case_of_its_scheme() {
        for value in ["Bearer a.b-c_d.e", "bearer a.b-c_d.e", "BEARER a.b-c_d.e"] {
            assert_eq!(bearer(&headers(&[value])).unwrap(), Some("a.b-c_d.e"));
        }
        assert_eq!(bearer(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn everything_else_is_no_proof() {
        let huge = format!("Bearer {}", "a".repeat(MOST_TOKEN + 1));
        for values in [
            &["Bearer a", "Bearer a"][..],
            &["Bearer a", "Basic b"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer  a"],
            &["Bearer Bearer a"],
            &["Bearer a, Bearer b"],
            &["Bearer a b"],
            &["Basic YTpi"],
            &["a.b.c"],
            &["Bearer\ta"],
            &["Bearer a\tb"],
            &[&*huge],
            &[""],
        ] {
            assert!(matches!(bearer(&headers(values)), Err(Unproved::Header(_))), "{values:?}");
        }
    }

    #[test]
    fn a_token_of_an_issuer_is_good_to_its_end_and_its_streams_for_an_hour_more() {
        let config = AccessConfig::check(
            &serde_norway::from_str(
                "
issuers: [{name: corp, issuer: 'https://a', audiences: [switchyard]}]
bindings: [{role: viewer, namespaces: ['*'], clusters: ['*'], subjects: [{issuer: corp, user: ann}]}]
",
            )
            .unwrap(),
        )
        .unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let end = 1_800_000_000;
        let verified = Verified::with(at(end), serde_json::json!({"sub": "ann"}));
        let proof = issuer_proof(&config, &config.issuers()[0], &verified).unwrap();
        assert_eq!((proof.expires_at, proof.streams_end_at), (Some(at(end)), Some(at(end + 3600))));
        assert_eq!((proof.identity.to_string(), proof.credential), ("corp:ann".to_owned(), Credential::Jwt));
        assert!(proof.grants.has_role_somewhere(switchyard_core::access::Role::Viewer));
        // The end of time has no hour after it.
        let verified = Verified::with(Timestamp::MAX, serde_json::json!({"sub": "ann"}));
        let proof = issuer_proof(&config, &config.issuers()[0], &verified).unwrap();
        assert_eq!(proof.streams_end_at, Some(Timestamp::MAX));
    }
}
