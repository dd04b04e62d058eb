//! The certificates of one control plane: an authority, the server's certificate, the clients' certificates, and the key that
//! signs service account tokens. Files in one folder; nothing here outlives a test.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority that the server and its clients trust.
    pub authority: PathBuf,
    /// What the server shows.
    pub server: Pair,
    /// In the group `system:masters`, which may do everything.
    pub admin: Pair,
    /// What kube-controller-manager is to the server.
    pub controllers: Pair,
    /// Signs the tokens of service accounts.
    pub service_accounts: PathBuf,
    /// Checks the tokens of service accounts.
    pub service_accounts_public: PathBuf,
}

impl Certificates {
    /// Makes them for a server at this address.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(folder: &Path, address: IpAddr) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let names = [address.to_string(), "kubernetes".to_owned(), "kubernetes.default.svc".to_owned()];
        let mut server = CertificateParams::new(names)?;
        server.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let admin = client("admin", "system:masters")?;
        // Its own name may only watch: each controller would need an account of its own for what it writes.
        let controllers = client("system:kube-controller-manager", "system:masters")?;
        let service_accounts = KeyPair::generate()?;
        Ok(Self {
            authority: write(folder, "authority.crt", &authority.pem())?,
            server: signed(folder, "server", server, &authority)?,
            admin: signed(folder, "admin", admin, &authority)?,
            controllers: signed(folder, "controllers", controllers, &authority)?,
            service_accounts: write(folder, "service-accounts.key", &service_accounts.serialize_pem())?,
            service_accounts_public: write(folder, "service-accounts.pub", &service_accounts.public_key_pem())?,
        })
    }
}

/// A client: the server takes the common name for the user and the organisation for a group.
fn client(user: &str, group: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
    Ok(params)
}

fn signed(
    folder: &Path,
    name: &str,
    params: CertificateParams,
    authority: &CertifiedIssuer<'_, KeyPair>,
) -> anyhow::Result<Pair> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok(Pair {
        certificate: write(folder, &format!("{name}.crt"), &certificate.pem())?,
        key: write(folder, &format!("{name}.key"), &key.serialize_pem())?,
    })
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}
