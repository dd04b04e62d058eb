//! What a database's URL has to be without `--dev`: the connection is TLS and the server's name is verified, unless it stays on this
//! machine; and no password stands on the command line, where every process of the machine can read it. Pure.

use std::net::IpAddr;

/// Remedy for a URL that is none.
const FORM: &str = "use postgres://user:password@host/database";

/// What is wrong with a URL, and what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Words that follow the value.
    pub problem: &'static str,
    /// What helps.
    pub remedy: &'static str,
}

/// The URL that is connected to: with `sslmode=verify-full` when it says nothing and leaves this machine.
///
/// # Errors
/// The first [`Problem`].
pub fn judge(url: &str, dev: bool) -> Result<String, Problem> {
    let parts = Parts::of(url)?;
    if dev || parts.stays_here() {
        return Ok(url.to_owned());
    }
    if parts.hosts().next().is_none() {
        let remedy = "write the host out, so that it is known whether the connection leaves this machine";
        return Err(Problem { problem: "names no host", remedy });
    }
    let mut modes =
        parts.parameters.iter().filter(|(name, _)| matches!(name.as_str(), "sslmode" | "ssl-mode")).peekable();
    if modes.peek().is_none() {
        let joint = if url.contains('?') { '&' } else { '?' };
        return Ok(format!("{url}{joint}sslmode=verify-full"));
    }
    if modes.all(|(_, mode)| mode == "verify-full") {
        return Ok(url.to_owned());
    }
    Err(Problem {
        problem: "asks for a connection on which the server is not verified",
        remedy: "use sslmode=verify-full, with sslrootcert=FILE when the server's authority is not a public one, or --dev",
    })
}

/// True when the URL holds a password.
pub fn has_password(url: &str) -> bool {
    // What is no URL is not looked at further; it is refused anyway.
    Parts::of(url).is_ok_and(|parts| {
        let in_front = parts.user.split_once(':').is_some_and(|(_, password)| !password.is_empty());
        in_front || parts.parameters.iter().any(|(name, value)| name == "password" && !value.is_empty())
    })
}

struct Parts<'u> {
    user: &'u str,
    host: String,
    parameters: Vec<(String, String)>,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Result<Self, Problem> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or(Problem { problem: "is not the URL of a Postgres", remedy: FORM })?;
        if rest.contains('#') {
            let remedy = "write %23 for a # of the password; what follows a # would be ignored";
            return Err(Problem { problem: "holds a #", remedy });
        }
        let bad =
            Problem { problem: "holds a percent sign that is no encoding", remedy: "write %25 for a percent sign" };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        // Else the user would be taken for the host.
        let has_host_behind = |name: &str| name.contains('@');
        if query.split('&').any(|pair| has_host_behind(pair.split('=').next().unwrap_or_default())) {
            let remedy = "write %3F for a ? of the password, and %40 for an @ of a parameter's name";
            return Err(Problem { problem: "holds a ? in front of its host", remedy });
        }
        if place.split_once('/').is_some_and(|(_, database)| has_host_behind(database)) {
            let remedy = "write %2F for a / of the password, and %40 for an @ of the database's name";
            return Err(Problem { problem: "holds a / in front of its host", remedy });
        }
        let authority = place.split('/').next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        });
        let parameters = pairs.collect::<Option<_>>().ok_or(bad)?;
        Ok(Self { user, host: decoded(host).ok_or(bad)?, parameters })
    }

    fn hosts(&self) -> impl Iterator<Item = &str> {
        let named = self.parameters.iter().filter(|(name, _)| matches!(name.as_str(), "host" | "hostaddr"));
        named.map(|(_, value)| value.as_str()).chain([self.host.as_str()]).filter(|host| !host.is_empty())
    }

    /// True when every host that is named is a folder of sockets or this machine.
    fn stays_here(&self) -> bool {
        let here = |host: &str| {
            host.starts_with('/') || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        self.hosts().next().is_some() && self.hosts().all(here)
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_leaves_this_machine_is_verified() {
        let good = |url: &str| judge(url, false).unwrap();
        assert_eq!(good("postgres://u:p@db/x"), "postgres://u:p@db/x?sslmode=verify-full");
        assert_eq!(good("postgresql://db:5432/x?a=b"), "postgresql://db:5432/x?a=b&sslmode=verify-full");
        for kept in [
            "postgres://db/x?sslmode=verify-full",
            "postgres://u@localhost/x?sslmode=disable",
            "postgres://[::1]:5/x",
            "postgres://127.0.0.1/x",
            "postgres://u@%2Fvar%2Frun/x",
            "postgres://localhost/x?host=/var/run",
            "postgres:///x?host=/run",
        ] {
            assert_eq!(good(kept), kept);
        }
        for weak in ["disable", "allow", "prefer", "require", "verify-ca", "VERIFY-FULL", ""] {
            let problem = judge(&format!("postgres://db/x?sslmode={weak}"), false).unwrap_err();
            assert!(problem.remedy.contains("sslmode=verify-full"), "{weak}");
            assert!(judge(&format!("postgres://db/x?sslmode={weak}"), true).is_ok(), "{weak}");
        }
        for weak in ["sslmode=verify-full&sslmode=disable", "ssl-mode=disable", "ssl%6dode=disable"] {
            assert!(judge(&format!("postgres://db/x?{weak}"), false).is_err(), "{weak}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (url, problem) in [
            ("mysql://db/x", "is not the URL of a Postgres"),
            ("postgres:///x", "names no host"),
            ("postgres://u:p#q@db/x", "holds a #"),
            ("postgres://db/x?host=%zz", "holds a percent sign that is no encoding"),
            ("postgres://u:12?q@db/x", "holds a ? in front of its host"),
            ("postgres://u:12?q@db/x?sslmode=disable", "holds a ? in front of its host"),
            ("postgres://u:12/q@db/x", "holds a / in front of its host"),
        ] {
            assert_eq!(judge(url, false).unwrap_err().problem, problem, "{url}");
        }
        assert!(judge("postgres://u@db/x?password=a@b", false).is_ok(), "the value of a parameter may hold one");
        // A local name does not cover for another host.
        assert_eq!(
            judge("postgres://localhost/x?host=db", false).unwrap(),
            "postgres://localhost/x?host=db&sslmode=verify-full"
        );
    }

    #[test]
    fn a_password_is_found_wherever_it_stands() {
        for url in ["postgres://u:p@db/x", "postgres://db/x?password=p", "postgres://u:a@b@db/x"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["postgres://u@db:5432/x", "postgres://u:@db/x", "postgres://db/x?password="] {
            assert!(!has_password(url), "{url}");
        }
    }
}
