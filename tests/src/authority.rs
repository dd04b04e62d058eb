//! Certificates of a test: authorities and what they sign, servers on loopback addresses and clients. Files in one folder; nothing
//! here outlives a test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Pair {
    /// The files of this name in a folder, there or not.
    pub fn at(folder: &Path, name: &str) -> Self {
        Self { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) }
    }

    fn write(&self, params: &CertificateParams, authority: &CertifiedIssuer<'_, KeyPair>) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?;
        write(&self.key, &key.serialize_pem())?;
        write(&self.certificate, &certificate.pem())
    }
}

/// An authority of a test.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    /// Makes one, and writes its certificate as `<name>.crt`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("{name} of a test"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let file = folder.join(format!("{name}.crt"));
        write(&file, &issuer.pem())?;
        Ok(Self { issuer, file })
    }

    /// The file of its certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its key, for a hub that issues with it.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate of a server at 127.0.0.1, written over what is in these files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn serve(&self, files: &Pair) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        files.write(&params, &self.issuer)
    }

    /// A certificate of a client with this common name and these URIs, as `<name>.crt` and `<name>.key`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn client(&self, folder: &Path, name: &str, common_name: &str, uris: &[&str]) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        let files = Pair::at(folder, name);
        files.write(&params, &self.issuer)?;
        Ok(files)
    }
}

/// A signing request of a new key, as an agent sends it.
///
/// # Errors
/// When the machine has no randomness.
pub fn signing_request() -> anyhow::Result<String> {
    Ok(CertificateParams::new(Vec::new())?.serialize_request(&KeyPair::generate()?)?.pem()?)
}

/// Writes a file that a program may read at any moment: it holds the old text or the new one.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("{} cannot be written", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("{} cannot be replaced", path.display()))
}
