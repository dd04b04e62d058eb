//! The token that the caller proves himself with, read anew for every call and every opening of a watch, so that a projected or
//! renewed token is used from the moment on that it is in its file. What is no file but a pipe is read once.
//!
//! A token goes into the metadata of a call and nowhere else: what is printed or logged names its file at most.

use std::{
    fmt, fs,
    io::{self, Read},
    path::PathBuf,
};

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::{args::Global, error::Failure};

/// The token itself, for secret stores that give variables and no files. There is no flag of this kind: others see flags.
const VARIABLE: &str = "SWITCHYARD_TOKEN";
/// The hub takes no longer one; an OIDC token with many groups has some 4 KiB.
const LONGEST: usize = 8192;

/// Why there is no token to send. Never holds what was read.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    #[error("cannot read the token file {path}: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{whence} holds no token: it is empty")]
    Empty { whence: String },
    #[error("{whence} holds no token: it has more than {LONGEST} bytes")]
    TooLong { whence: String },
    #[error("{whence} holds no token: a token is one line of visible ASCII characters")]
    Unprintable { whence: String },
}

/// A token that can be shown only to the hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    fn checked(bytes: &[u8], whence: impl Fn() -> String) -> Result<Self, NoToken> {
        if bytes.len() > LONGEST {
            return Err(NoToken::TooLong { whence: whence() });
        }
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Err(NoToken::Empty { whence: whence() });
        }
        match str::from_utf8(text) {
            Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => Err(NoToken::Unprintable { whence: whence() }),
        }
    }

    /// Puts it where the hub looks for it, once, marked so that HTTP/2 keeps it out of its tables and of `Debug`.
    fn put_into(&self, metadata: &mut MetadataMap) {
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", self.0).parse().expect("visible ASCII was checked when it was read");
        value.set_sensitive(true);
        metadata.insert("authorization", value);
    }
}

#[derive(Clone, Debug)]
enum Source {
    /// A certificate says who calls, or the hub runs in development mode.
    Nothing,
    Given(Token),
    File(PathBuf),
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub struct Proof(Source);

impl Proof {
    /// Finds it and reads it once, so that a wrong file is told before anything is done.
    pub fn of(global: &Global) -> Result<Self, Failure> {
        let given = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
        let proof = Self::choose(given.as_deref().map(|value| value.as_encoded_bytes()), global.token_file.clone())?;
        let token = proof.read().map_err(|why| {
            let remedy = format!("give a file that holds a token with --token-file, or the token in {VARIABLE}");
            Failure::usage("cannot prove who is calling", why, remedy)
        })?;
        Ok(proof.kept(token))
    }

    /// A pipe, such as the `<(...)` of a shell, gives its token once.
    fn kept(self, token: Option<Token>) -> Self {
        match (&self.0, token) {
            (Source::File(path), Some(token)) if !path.is_file() => Self(Source::Given(token)),
            _ => self,
        }
    }

    fn choose(given: Option<&[u8]>, file: Option<PathBuf>) -> Result<Self, Failure> {
        let usage = |why: String, remedy: &str| Failure::usage("cannot prove who is calling", why, remedy);
        match (given, file) {
            // Two tokens may be two callers: which one acts must not depend on an order that nobody remembers.
            (Some(_), Some(file)) => Err(usage(
                format!("there is a token in {VARIABLE}, and another one in {}", file.display()),
                "unset SWITCHYARD_TOKEN, or leave out --token-file and SWITCHYARD_TOKEN_FILE",
            )),
            (Some(given), None) => {
                let token = Token::checked(given, || format!("the variable {VARIABLE}"))
                    .map_err(|why| usage(why.to_string(), "put the whole token there, and nothing else"))?;
                Ok(Self(Source::Given(token)))
            }
            (None, Some(file)) => Ok(Self(Source::File(file))),
            (None, None) => Ok(Self(Source::Nothing)),
        }
    }

    /// The token as it is now.
    fn read(&self) -> Result<Option<Token>, NoToken> {
        match &self.0 {
            Source::Nothing => Ok(None),
            Source::Given(token) => Ok(Some(token.clone())),
            Source::File(path) => {
                let mut bytes = Vec::new();
                // One byte more than may be there: a wrong file may be a large one.
                let read = fs::File::open(path).and_then(|file| file.take(LONGEST as u64 + 1).read_to_end(&mut bytes));
                read.map_err(|source| NoToken::Unreadable { path: path.display().to_string(), source })?;
                Token::checked(&bytes, || path.display().to_string()).map(Some)
            }
        }
    }

    /// Puts the token as it is now into a call, and gives it for [`Proof::renewed`].
    pub fn put_into(&self, metadata: &mut MetadataMap) -> Result<Option<Token>, NoToken> {
        let token = self.read()?;
        if let Some(token) = &token {
            token.put_into(metadata);
        }
        Ok(token)
    }

    /// The file, when it holds another token by now than the one that the hub did not take.
    pub fn renewed(&self, sent: Option<&Token>) -> Option<String> {
        let Source::File(path) = &self.0 else { return None };
        let now = self.read().ok()?;
        (now.as_ref() != sent).then(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn in_file(path: &Path) -> Proof {
        Proof::choose(None, Some(path.to_owned())).unwrap()
    }

    #[test]
    fn a_token_is_sent_once_as_a_bearer_and_shows_itself_nowhere() {
        let proof = Proof::choose(Some(b"sys_abc_s3cret\n"), None).unwrap();
        let mut metadata = MetadataMap::new();
        proof.put_into(&mut metadata).unwrap();
        proof.put_into(&mut metadata).unwrap();
        let all: Vec<_> = metadata.get_all("authorization").iter().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].to_str().unwrap(), "Bearer sys_abc_s3cret");
        assert!(all[0].is_sensitive());
        let shown = format!("{proof:?} {metadata:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_file_is_read_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "first").unwrap();
        let proof = in_file(&path);
        let mut metadata = MetadataMap::new();
        let sent = proof.put_into(&mut metadata).unwrap();
        assert_eq!(proof.renewed(sent.as_ref()), None, "the same token was refused already");
        fs::write(&path, "second\n").unwrap();
        assert_eq!(proof.renewed(sent.as_ref()), Some(path.display().to_string()));
        proof.put_into(&mut metadata).unwrap();
        assert_eq!(metadata.get("authorization").unwrap().to_str().unwrap(), "Bearer second");
    }

    #[test]
    fn a_token_that_was_given_is_never_a_new_one() {
        let proof = Proof::choose(Some(b"given"), None).unwrap();
        let sent = proof.put_into(&mut MetadataMap::new()).unwrap();
        assert_eq!(proof.renewed(sent.as_ref()), None);
        let nothing = Proof::choose(None, None).unwrap();
        assert_eq!(nothing.put_into(&mut MetadataMap::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let long = "s3cret".repeat(LONGEST);
        for (content, why) in [
            ("", "it is empty"),
            (" \n", "it is empty"),
            ("s3cret and more", "one line of visible ASCII"),
            ("s3cret\ns3cret", "one line of visible ASCII"),
            ("s3cret-\u{e9}", "one line of visible ASCII"),
            (long.as_str(), "more than 8192 bytes"),
        ] {
            let path = folder.path().join("token");
            fs::write(&path, content).unwrap();
            let told = in_file(&path).read().unwrap_err().to_string();
            assert!(told.contains(why) && told.contains("token") && !told.contains("s3cret"), "{told}");
        }
        let told = in_file(&folder.path().join("none")).read().unwrap_err().to_string();
        assert!(told.contains("cannot read the token file"), "{told}");
        let failure = Proof::choose(Some(b"s3 cret"), None).unwrap_err().report();
        assert!(failure.contains("SWITCHYARD_TOKEN") && !failure.contains("s3 cret"), "{failure}");
    }

    #[test]
    fn two_tokens_are_refused_since_they_may_be_two_callers() {
        let failure = Proof::choose(Some(b"s3cret"), Some("token".into())).unwrap_err().report();
        assert!(failure.contains("unset SWITCHYARD_TOKEN") && !failure.contains("s3cret"), "{failure}");
    }
}
