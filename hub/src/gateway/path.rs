//! Paths: templates with fields in braces and a verb after a colon, and the decoding of percent signs. Pure.
//!
//! A template is matched against the path as it was sent, and only then is a field's text decoded: an encoded slash or colon is part
//! of a value and never of the structure.

/// Why a template of the table is none; a defect, found by the tests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path template {0:?} is not usable")]
pub struct BadTemplate(pub &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Literal(&'static str),
    Field(&'static str),
}

/// Such as `/v1/shifts/{id}:abort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    verb: Option<&'static str>,
}

impl Template {
    /// Takes a template apart.
    ///
    /// # Errors
    /// When it does not begin with a slash, or a segment is empty.
    pub fn parse(text: &'static str) -> Result<Self, BadTemplate> {
        let rest = text.strip_prefix('/').ok_or(BadTemplate(text))?;
        // A colon stands after the last slash only: names of fields hold none.
        let (rest, verb) = match rest.rsplit_once(':') {
            Some((rest, verb)) => (rest, Some(verb)),
            None => (rest, None),
        };
        let segments =
            rest.split('/').map(|segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                Some(field) => Segment::Field(field),
                None => Segment::Literal(segment),
            });
        let segments: Vec<Segment> = segments.collect();
        let empty = |segment: &Segment| matches!(segment, Segment::Literal("") | Segment::Field(""));
        let bad = segments.iter().any(empty) || verb.is_some_and(|verb| verb.is_empty() || verb.contains('/'));
        if bad { Err(BadTemplate(text)) } else { Ok(Self { segments, verb }) }
    }

    /// The fields in braces, in order.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(name) => Some(*name),
            Segment::Literal(_) => None,
        })
    }

    /// The texts of the fields, still encoded, when the path is one of this template.
    pub fn matched<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let rest = path.strip_prefix('/')?;
        let (rest, verb) = match rest.rsplit_once(':') {
            Some((rest, verb)) if !verb.contains('/') => (rest, Some(verb)),
            _ => (rest, None),
        };
        // A colon that is not encoded is always a verb, so that no verb can ever be taken for a part of a name.
        if verb != self.verb || rest.contains(':') {
            return None;
        }
        let mut values = Vec::new();
        let mut given = rest.split('/');
        for segment in &self.segments {
            match (segment, given.next()?) {
                (Segment::Literal(literal), text) if *literal == text => {}
                (Segment::Field(_), text) if !text.is_empty() => values.push(text),
                _ => return None,
            }
        }
        given.next().is_none().then_some(values)
    }
}

/// Decodes percent signs, and plus signs in a query.
///
/// # Errors
/// What is wrong with the text, as words that follow it.
pub fn decoded(text: &str, query: bool) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let pair = digit().zip(digit()).and_then(|(high, low)| u8::try_from(16 * high + low).ok());
                pair.ok_or("holds a percent sign without two hexadecimal digits")?
            }
            b'+' if query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched<'p>(template: &'static str, path: &'p str) -> Option<Vec<&'p str>> {
        Template::parse(template).unwrap().matched(path)
    }

    #[test]
    fn fields_and_verbs_are_found_and_nothing_else_matches() {
        let weights = "/v1/namespaces/{policy.namespace}/policies/{policy.name}:setWeights";
        assert_eq!(matched(weights, "/v1/namespaces/shop/policies/web:setWeights"), Some(vec!["shop", "web"]));
        assert_eq!(matched("/v1/shifts/{id}", "/v1/shifts/a%2Fb%3Aabort"), Some(vec!["a%2Fb%3Aabort"]));
        assert_eq!(matched("/v1/policies:apply", "/v1/policies:apply"), Some(vec![]));
        let refused = [
            "/v1/shifts/x:abort",
            "/v1/shifts/",
            "/v1/shifts",
            "/v1//shifts/x",
            "//v1/shifts/x",
            "/v1/shifts/x/",
            "/v1/shifts/x/y",
            "v1/shifts/x",
            "/V1/shifts/x",
            "/v1/shi%66ts/x",
            "/v1:v/shifts/x",
            "/v1/shifts/x:",
            "",
            "/",
        ];
        for path in refused {
            assert_eq!(matched("/v1/shifts/{id}", path), None, "{path}");
        }
        assert_eq!(matched("/v1/shifts/{id}:abort", "/v1/shifts/a:b:abort"), None);
        assert_eq!(matched("/v1/shifts/{id}:abort", "/v1/shifts/:abort"), None);
    }

    #[test]
    fn a_template_that_is_none_is_refused() {
        for text in ["v1", "/v1//x", "/v1/{}", "/v1/x:", "/"] {
            assert_eq!(Template::parse(text), Err(BadTemplate(text)));
        }
        let template = Template::parse("/v1/namespaces/{policy.namespace}/policies/{policy.name}:rollback").unwrap();
        assert_eq!(template.fields().collect::<Vec<_>>(), ["policy.namespace", "policy.name"]);
    }

    #[test]
    fn what_is_no_encoding_is_refused() {
        assert_eq!(decoded("a%2Fb+c%c3%A4", false).unwrap(), "a/b+cä");
        assert_eq!(decoded("a+b%20", true).unwrap(), "a b ");
        for bad in ["%", "%2", "%zz", "%+1", "a%f"] {
            assert!(decoded(bad, true).unwrap_err().contains("percent sign"), "{bad}");
        }
        assert_eq!(decoded("%ff", false), Err("is not UTF-8"));
    }

    proptest! {
        #[test]
        fn any_value_survives_its_encoding(value in "\\PC{0,40}") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decoded(&encoded, false).unwrap(), value.clone());
            prop_assert_eq!(decoded(&encoded, true).unwrap(), value);
        }

        #[test]
        fn no_path_makes_trouble(path in "[/:a-c%.{}]{0,30}") {
            let template = Template::parse("/a/{b}/c:a").unwrap();
            if let Some(values) = template.matched(&path) {
                prop_assert_eq!(format!("/a/{}/c:a", values[0]), path);
            }
        }
    }
}
