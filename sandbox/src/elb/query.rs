//! Parser of the AWS query protocol: form-encoded pairs in, a tree of parameters out. Every bound on the input of
//! the API stands here. Must not import the state.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::errors::ApiError;

/// Longest accepted request body: RegisterTargets with 5,000 targets is about 500 KB.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Most pairs in one request: 5,000 targets with Id, Port and AvailabilityZone.
const MAX_PARAMS: usize = 20_000;
/// Longest name or value: the longest modelled value is a fixed-response body of 1,024 characters.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// All parameters of one call, by full name (`Targets.member.1.Id`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(malformed(format!("request body of {} bytes; at most {MAX_BODY_BYTES}", body.len())));
        }
        let mut map = BTreeMap::new();
        for pair in body.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            let cut = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let name = decode(&pair[..cut])?;
            let value = decode(pair.get(cut + 1..).unwrap_or_default())?;
            if map.len() >= MAX_PARAMS {
                return Err(malformed(format!("more than {MAX_PARAMS} parameters; split the call")));
            }
            if map.insert(name.clone(), value).is_some() {
                return Err(malformed(format!("parameter '{name}' given twice; send it once")));
            }
        }
        Ok(Self(map))
    }

    pub fn root(&self) -> Scope<'_> {
        Scope { params: self, prefix: String::new() }
    }

    /// What the call log shows: everything but the two protocol constants.
    pub fn into_logged(mut self) -> BTreeMap<String, String> {
        self.0.remove("Action");
        self.0.remove("Version");
        self.0
    }

    fn any_with_prefix(&self, prefix: &str) -> bool {
        self.0.range(prefix.to_owned()..).next().is_some_and(|(k, _)| k.starts_with(prefix))
    }
}

/// The parameters below one name: the call itself, one member of a list, one structure.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    params: &'a Params,
    prefix: String,
}

impl<'a> Scope<'a> {
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.params.0.get(&self.name(key)).map(String::as_str)
    }

    /// Full name of a parameter, for messages.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn required(&self, key: &str) -> Result<&'a str, ApiError> {
        self.get(key).filter(|v| !v.is_empty()).ok_or_else(|| {
            ApiError::validation(format!("Parameter '{}' is missing or empty; it is required", self.name(key)))
        })
    }

    pub fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ApiError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text.parse::<u32>() {
            Ok(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(ApiError::validation(format!(
                "Parameter '{}' has the value '{text}'; it must be an integer from {} to {}",
                self.name(key),
                range.start(),
                range.end()
            ))),
        }
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.get(key) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::validation(format!(
                "Parameter '{}' has the value '{other}'; it must be true or false",
                self.name(key)
            ))),
        }
    }

    /// A list of plain values, in the order of their numbers.
    pub fn list(&self, key: &str) -> Vec<&'a str> {
        let base = self.name(key);
        self.indices(&base)
            .into_iter()
            .filter_map(|n| self.params.0.get(&format!("{base}.member.{n}")).map(String::as_str))
            .collect()
    }

    /// A list of structures, in the order of their numbers.
    pub fn members(&self, key: &str) -> Vec<Scope<'a>> {
        let base = self.name(key);
        self.indices(&base)
            .into_iter()
            .map(|n| Scope { params: self.params, prefix: format!("{base}.member.{n}.") })
            .collect()
    }

    /// A structure, when any of its fields was sent.
    pub fn structure(&self, key: &str) -> Option<Scope<'a>> {
        let prefix = format!("{}.", self.name(key));
        self.params.any_with_prefix(&prefix).then_some(Scope { params: self.params, prefix })
    }

    fn indices(&self, base: &str) -> BTreeSet<u32> {
        let prefix = format!("{base}.member.");
        let keys = self.params.0.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix));
        keys.filter_map(|(k, _)| k[prefix.len()..].split('.').next()?.parse().ok()).collect()
    }
}

fn malformed(message: String) -> ApiError {
    ApiError::new("MalformedQueryString", message)
}

fn decode(raw: &[u8]) -> Result<String, ApiError> {
    if raw.len() > MAX_TEXT_BYTES {
        return Err(malformed(format!("a name or value of {} bytes; at most {MAX_TEXT_BYTES}", raw.len())));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let code = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
                let byte = code.and_then(|h| u8::from_str_radix(h, 16).ok());
                out.push(byte.ok_or_else(|| malformed("a % that is not followed by two hex digits".to_owned()))?);
                rest = &tail[2..];
            }
            plain => out.push(*plain),
        }
    }
    String::from_utf8(out).map_err(|_| malformed("a value that is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lists_and_structures_are_read_in_the_order_of_their_numbers() {
        let body = b"Action=X&Names.member.2=b&Names.member.10=c&Names.member.1=a%2Fb+c&T.member.1.Id=i&S.Enabled=true";
        let params = Params::parse(body).unwrap();
        let root = params.root();
        assert_eq!(root.list("Names"), ["a/b c", "b", "c"]);
        assert_eq!(root.members("T")[0].get("Id"), Some("i"));
        assert_eq!(root.structure("S").unwrap().boolean("Enabled").unwrap(), Some(true));
        assert!(root.structure("Absent").is_none());
    }

    #[test]
    fn bad_encoding_duplicates_and_excess_are_refused_by_name() {
        assert!(Params::parse(b"a=%G1").unwrap_err().message.contains("hex"));
        assert!(Params::parse(b"a=%1").unwrap_err().message.contains("hex"));
        assert!(Params::parse(b"a=%FF").unwrap_err().message.contains("UTF-8"));
        assert!(Params::parse(b"a=1&a=2").unwrap_err().message.contains("'a' given twice"));
        assert!(Params::parse(&vec![b'a'; MAX_BODY_BYTES + 1]).unwrap_err().message.contains("body"));
        assert!(Params::parse(&vec![b'a'; MAX_TEXT_BYTES + 1]).unwrap_err().message.contains("value"));
        let many = (0..=MAX_PARAMS).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join("&");
        assert!(Params::parse(many.as_bytes()).unwrap_err().message.contains("parameters"));
    }

    #[test]
    fn numbers_and_booleans_outside_their_range_name_field_value_and_remedy() {
        let params = Params::parse(b"A.member.1.Port=70000&On=maybe").unwrap();
        let error = params.root().members("A")[0].number("Port", 1..=65535).unwrap_err();
        assert_eq!(
            error.message,
            "Parameter 'A.member.1.Port' has the value '70000'; it must be an integer from 1 to 65535"
        );
        assert!(params.root().boolean("On").unwrap_err().message.contains("'maybe'"));
        assert!(params.root().required("Gone").unwrap_err().message.contains("'Gone'"));
    }
}
