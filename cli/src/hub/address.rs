//! Which addresses of a hub may be used, and the TLS files for them. Plain text is for this machine only, without exception: what is
//! sent moves production traffic, and a token on the way would be everybody's.

use std::{fs, net::IpAddr, path::Path};

use tonic::transport::Uri;

use super::tls::Tls;
use crate::{args::Global, error::Failure};

/// The address, if it may be used.
pub fn address(text: &str, global: &Global) -> Result<Uri, Failure> {
    let bad = |why: String, remedy: &str| Err(Failure::usage(format!("cannot use the hub '{text}'"), why, remedy));
    let example = "give https://HOST:PORT, or http://127.0.0.1:PORT on this machine";
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => return bad(format!("not an address: {error}"), example),
    };
    // What stands before an @ may be a secret, so this is refused before anything else is said of the address.
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let remedy = "prove who you are with --token-file, or with --tls-cert and --tls-key";
        return Err(Failure::usage("cannot use the hub", "its address holds a user name", remedy));
    }
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return bad("it lacks scheme or host".into(), example);
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return bad("it has a path".into(), example);
    }
    let tls_files = [&global.tls_ca, &global.tls_cert, &global.tls_key].iter().any(|file| file.is_some());
    match scheme {
        "https" if global.tls_ca.is_none() => {
            bad("https:// needs the CA that signed the hub's certificate".into(), "give it with --tls-ca FILE")
        }
        "https" => Ok(uri),
        "http" if tls_files => bad("TLS files are given, but http:// is not encrypted".into(), "write https://"),
        "http" if global.tls_server_name.is_some() => {
            bad("--tls-server-name is given, but http:// is not encrypted".into(), "write https://")
        }
        "http" if is_loopback(host) => Ok(uri),
        "http" => bad(
            "http:// is allowed only to this machine: on the way anyone could read and change what moves your traffic"
                .into(),
            "use https:// with --tls-ca; through kubectl port-forward, too: with https://127.0.0.1:PORT, and with \
             --tls-server-name the name that the hub's certificate is for",
        ),
        _ => bad(format!("the scheme {scheme}:// is not known"), example),
    }
}

/// Whether the hub, or the tunnel to it, is on this machine: then its address means another machine elsewhere.
pub fn is_here(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The same place for a connection whose TLS is made elsewhere: with the port that https:// has when it names none.
pub fn plain(uri: &Uri) -> Uri {
    let port = uri.port_u16().unwrap_or(443);
    let text = format!("http://{}:{port}", uri.host().unwrap_or_default());
    text.parse().expect("host and port are those of an address that was parsed and checked")
}

/// The authority that the hub's certificate must come from, the name that it must be for, and the caller's own certificate if there is
/// one.
pub fn tls(ca: &Path, global: &Global) -> Result<Tls, Failure> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| {
            let remedy = "give readable PEM files with --tls-ca, --tls-cert, --tls-key";
            Failure::usage(format!("cannot read {}", path.display()), error, remedy)
        })
    };
    let authorities = read(ca)?;
    let identity = match (&global.tls_cert, &global.tls_key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        (None, None) => None,
        _ => {
            let why = "--tls-cert and --tls-key belong together, one of them is missing";
            return Err(Failure::usage("cannot use the client certificate", why, "give both, or neither"));
        }
    };
    let pair = identity.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
    let tls = Tls::new(&authorities, pair).map_err(|error| {
        Failure::usage("cannot use the TLS files", error, "give PEM files: --tls-ca, --tls-cert, --tls-key")
    })?;
    let Some(name) = &global.tls_server_name else { return Ok(tls) };
    tls.named(name).map_err(|error| {
        let remedy = "give a name that the hub's certificate is for, without scheme and port";
        Failure::usage(format!("cannot use --tls-server-name '{name}'"), error, remedy)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn check(arguments: &[&str]) -> Result<(), String> {
        let mut line = vec!["yardctl", "version", "--hub"];
        line.extend(arguments);
        let global = Cli::try_parse_from(line).unwrap().global;
        address(&global.hub, &global).map(drop).map_err(|failure| failure.report())
    }

    #[test]
    fn plain_text_goes_only_to_this_machine() {
        for hub in ["http://127.0.0.1:7400", "http://127.8.9.1:1", "http://localhost:7400", "http://[::1]:7400/"] {
            assert_eq!(check(&[hub]), Ok(()), "{hub}");
        }
        for hub in ["http://hub.example.com:7400", "http://10.0.0.1:7400", "http://localhost.example.com"] {
            let report = check(&[hub]).unwrap_err();
            assert!(report.contains("anyone could read and change") && report.contains("port-forward"), "{report}");
        }
        assert!(Cli::try_parse_from(["yardctl", "version", "--insecure"]).is_err(), "there is no way round it");
    }

    #[test]
    fn a_place_keeps_its_port_or_has_that_of_https() {
        for (hub, place) in [
            ("https://hub:7400", "http://hub:7400/"),
            ("https://hub.example.com/", "http://hub.example.com:443/"),
            ("https://[2001:db8::1]:7400", "http://[2001:db8::1]:7400/"),
        ] {
            assert_eq!(plain(&hub.parse().unwrap()).to_string(), place);
        }
    }

    #[test]
    fn a_tunnel_is_here_and_a_hub_elsewhere_is_not() {
        for (hub, here) in [
            ("https://127.0.0.1:7400", true),
            ("https://[::1]:7400", true),
            ("http://localhost:7400/", true),
            ("https://hub.example.com:7400", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(is_here(hub), here, "{hub}");
        }
    }

    #[test]
    fn https_needs_a_ca_and_http_takes_no_tls_files() {
        assert!(check(&["https://hub:7400"]).unwrap_err().contains("--tls-ca FILE"));
        assert_eq!(check(&["https://hub:7400", "--tls-ca", "ca.pem"]), Ok(()));
        assert!(check(&["http://localhost:7400", "--tls-ca", "ca.pem"]).unwrap_err().contains("write https://"));
        let named = check(&["http://localhost:7400", "--tls-server-name", "hub"]).unwrap_err();
        assert!(named.contains("--tls-server-name") && named.contains("write https://"), "{named}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_an_example() {
        for hub in
            ["", "hub:7400", "ftp://localhost", "http://localhost/path", "http://localhost?x=1", "not an address"]
        {
            let report = check(&[hub]).unwrap_err();
            assert!(report.contains("https://HOST:PORT"), "{hub}: {report}");
        }
        let report = check(&["https://me:s3cret@localhost"]).unwrap_err();
        assert!(report.contains("user name") && !report.contains("s3cret"), "{report}");
    }
}
