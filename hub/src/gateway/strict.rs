//! JSON bodies are read twice: here for what the protobuf mapping would pass over in silence (a name that is given twice, null), and
//! then by that mapping. A weight that is dropped without a word is worse than a request that is refused. Pure.

use std::{cell::RefCell, collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, such as `weights.blue` or `policies[0]`; empty: the whole body.
    pub place: String,
    /// Words that follow the value.
    pub problem: String,
}

/// Judges a body.
///
/// # Errors
/// The first [`Fault`]: not JSON, not an object, null, or a name twice.
pub fn judge(body: &[u8]) -> Result<(), Fault> {
    let path = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = Strict { path: &path, top: true }.deserialize(&mut reader).and_then(|()| reader.end());
    // Where reading stopped: steps are taken back only when what is below them was fine.
    read.map_err(|error| Fault {
        place: path.borrow().concat().trim_start_matches('.').to_owned(),
        problem: problem(&error),
    })
}

/// Where an error of the mapping is, and the text there: the mapping tells lines and columns only. What was read up to the faulty value
/// is read again, which stops at the value's place.
pub fn place(body: &[u8], error: &serde_json::Error) -> (String, String) {
    let start: usize =
        body.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let read = body.get(..start.saturating_add(error.column())).unwrap_or(body);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let mut before = read.len() - read.iter().rev().take_while(|byte| plain(byte)).count();
    // No number and no word: a text that was read to its end, or a list or an object of which some brackets were seen.
    if before == read.len() {
        let bracket = |byte: &u8| b"[{]}".contains(byte);
        before -= match read.last() {
            Some(b'"') => 1,
            _ => read.iter().rev().take_while(|byte| bracket(byte)).count(),
        };
    }
    let place = judge(&read[..before]).err().map(|fault| fault.place).unwrap_or_default();
    let value = &read[before..];
    let value = if value.iter().all(plain) { String::from_utf8_lossy(value).into_owned() } else { String::new() };
    (place, value)
}

fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // A place in a text that the caller has made from a structure tells him nothing when it is the structure that is wrong.
    match text.rsplit_once(" at line ") {
        Some((head, _)) if error.is_data() => head.to_owned(),
        _ => format!("is not JSON: {text}"),
    }
}

#[derive(Clone, Copy)]
struct Strict<'p> {
    path: &'p RefCell<Vec<String>>,
    top: bool,
}

impl Strict<'_> {
    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.top { Err(E::custom("is not an object; send one, such as {}")) } else { Ok(()) }
    }

    fn below(self) -> Self {
        Self { top: false, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom("is null; leave out what is not set"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.scalar()?;
        for at in 0.. {
            self.path.borrow_mut().push(format!("[{at}]"));
            if items.next_element_seed(self.below())?.is_none() {
                self.path.borrow_mut().pop();
                break;
            }
            self.path.borrow_mut().pop();
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            self.path.borrow_mut().push(format!(".{name}"));
            if !seen.insert(camel(&name)) {
                return Err(A::Error::custom("is given twice; give it once"));
            }
            entries.next_value_seed(self.below())?;
            self.path.borrow_mut().pop();
        }
        Ok(())
    }
}

/// A field has two names, `dry_run` and `dryRun`; both together are the same name twice. Keys of maps are names of clusters, which hold
/// no underscore.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(body: &str) -> (String, String) {
        let Err(fault) = judge(body.as_bytes()) else { panic!("{body} was taken") };
        (fault.place, fault.problem)
    }

    #[test]
    fn what_would_be_passed_over_in_silence_is_refused_with_its_place() {
        let twice = |place: &str| (place.to_owned(), "is given twice; give it once".to_owned());
        assert_eq!(fault(r#"{"weights": {"blue": 1, "blue": 2}}"#), twice("weights.blue"));
        assert_eq!(fault(r#"{"a": 1, "b": {}, "a": 1}"#), twice("a"));
        assert_eq!(fault(r#"{"dryRun": true, "dry_run": false}"#), twice("dry_run"));
        let null = |place: &str| (place.to_owned(), "is null; leave out what is not set".to_owned());
        assert_eq!(fault(r#"{"weights": {"green": 0, "blue": null}}"#), null("weights.blue"));
        assert_eq!(fault(r#"{"spec": {"policies": [{"toCluster": "x"}, null]}}"#), null("spec.policies[1]"));
        assert_eq!(fault("null"), null(""));
    }

    #[test]
    fn what_is_no_object_or_no_json_is_refused() {
        for body in ["[]", "1", "\"x\"", "true", "1.5", "-1"] {
            assert_eq!(fault(body).1, "is not an object; send one, such as {}", "{body}");
        }
        for body in ["", "{", "{\"a\": }", "{} {}", "{'a': 1}", "\u{feff}{}"] {
            let (_, problem) = fault(body);
            assert!(problem.starts_with("is not JSON: ") && problem.contains("line 1"), "{body}: {problem}");
        }
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        assert!(fault(&deep).1.contains("recursion limit"), "deep nesting ends early");
    }

    #[test]
    fn the_place_of_an_error_of_the_mapping_is_found() {
        #[derive(Debug, serde::Deserialize)]
        struct Below {
            #[allow(dead_code, reason = "only read")]
            b: std::collections::BTreeMap<String, u8>,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Top {
            #[allow(dead_code, reason = "only read")]
            a: Vec<Below>,
        }
        let found = |body: &str| place(body.as_bytes(), &serde_json::from_str::<Top>(body).unwrap_err());
        let pair = |place: &str, value: &str| (place.to_owned(), value.to_owned());
        assert_eq!(found(r#"{"a": [{"b": {}}, {"b": {"blue": 1, "green": -1}}]}"#), pair("a[1].b.green", "-1"));
        assert_eq!(found("{\"a\": [\n{\"b\": {\n\"blue\": true}}]}"), pair("a[0].b.blue", "true"));
        assert_eq!(found(r#"{"a": [{"b": {"blue": "x"}}]}"#), pair("a[0].b.blue", ""));
        assert_eq!(found(r#"{"a": [{"b": {"blue": [1]}}]}"#), pair("a[0].b.blue", ""));
        assert_eq!(found(r#"{"a": {}}"#), pair("a", ""));
    }

    proptest! {
        #[test]
        fn any_object_without_null_and_doubles_is_taken(names in prop::collection::btree_set("[a-z]{1,4}", 0..6)) {
            let fields: Vec<String> = names.iter().map(|name| format!("{name:?}: [{{{name:?}: 1}}, 2.5, \"x\"]")).collect();
            prop_assert_eq!(judge(format!("{{{}}}", fields.join(",")).as_bytes()), Ok(()));
        }

        #[test]
        fn no_bytes_make_trouble(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _taken_or_not = judge(&bytes);
        }
    }
}
