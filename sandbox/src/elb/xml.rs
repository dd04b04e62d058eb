//! Writer of the XML answers of the query protocol. Knows escaping and the envelope; must not import the state.

use super::errors::ApiError;

const NAMESPACE: &str = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";

/// A growing piece of XML. Elements nest by closures, so that every one is closed.
#[derive(Debug, Default)]
pub struct Xml(String);

impl Xml {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn text(&mut self, tag: &str, value: impl std::fmt::Display) -> &mut Self {
        self.element(tag, |x| escape_into(&mut x.0, &value.to_string()))
    }

    pub fn text_if(&mut self, tag: &str, value: Option<impl std::fmt::Display>) -> &mut Self {
        match value {
            Some(value) => self.text(tag, value),
            None => self,
        }
    }

    pub fn element(&mut self, tag: &str, body: impl FnOnce(&mut Self)) -> &mut Self {
        for part in ["<", tag, ">"] {
            self.0.push_str(part);
        }
        body(self);
        for part in ["</", tag, ">"] {
            self.0.push_str(part);
        }
        self
    }

    /// `<tag><member>..</member>..</tag>`, present also when it is empty.
    pub fn list<T>(
        &mut self,
        tag: &str,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.element(tag, |x| {
            for item in items {
                x.element("member", |x| each(x, item));
            }
        })
    }

    pub fn text_list<T: std::fmt::Display>(&mut self, tag: &str, items: impl IntoIterator<Item = T>) -> &mut Self {
        self.list(tag, items, |x, item| escape_into(&mut x.0, &item.to_string()))
    }
}

/// The envelope of a successful answer.
pub fn answer(operation: &str, result: &Xml, request_id: &str) -> String {
    format!(
        "<{operation}Response xmlns=\"{NAMESPACE}\"><{operation}Result>{}</{operation}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>",
        result.0
    )
}

/// The envelope of a refusal.
pub fn refusal(error: &ApiError, request_id: &str) -> String {
    let mut xml = Xml::new();
    xml.element("Error", |x| {
        x.text("Type", if error.sender_fault() { "Sender" } else { "Receiver" });
        x.text("Code", &error.code).text("Message", &error.message);
    });
    format!("<ErrorResponse xmlns=\"{NAMESPACE}\">{}<RequestId>{request_id}</RequestId></ErrorResponse>", xml.0)
}

fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not allowed in XML 1.0 in any form; a reader would refuse the whole document.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_lists_are_members() {
        let mut xml = Xml::new();
        xml.text("A", "<&>\"\u{1}").text_list("L", ["x", "y"]).text_if("Gone", None::<&str>);
        assert_eq!(xml.0, "<A>&lt;&amp;&gt;&quot;\u{fffd}</A><L><member>x</member><member>y</member></L>");
    }

    #[test]
    fn a_refusal_is_well_formed_for_a_strict_reader() {
        let text = refusal(&ApiError::new("InvalidAction", "no <such> action"), "id-1");
        let mut reader = quick_xml::Reader::from_str(&text);
        let mut depth = 0;
        loop {
            match reader.read_event().unwrap() {
                quick_xml::events::Event::Start(_) => depth += 1,
                quick_xml::events::Event::End(_) => depth -= 1,
                quick_xml::events::Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        assert!(text.contains("<Code>InvalidAction</Code>"));
    }
}
