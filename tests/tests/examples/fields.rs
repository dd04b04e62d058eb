//! The fields that the public documentation of each CD system names, as far as an example could want them. A misspelt field is
//! ignored or refused there, and no API server with those definitions is at hand here. Pure.

use serde_json::Value;

/// Fails when an object has a field that is not in the list.
///
/// # Panics
/// Then, and when it is no object.
pub fn only(object: &Value, known: &str, place: &str) {
    let known: Vec<&str> = known.split_whitespace().collect();
    let fields = object.as_object().unwrap_or_else(|| panic!("{place} is no object: {object}"));
    for field in fields.keys() {
        assert!(known.contains(&field.as_str()), "{place} has no field {field:?}; it has {known:?}");
    }
}

/// The same for each object of a list.
pub fn only_in_each(list: &Value, known: &str, place: &str) {
    for one in list.as_array().unwrap_or_else(|| panic!("{place} is no list: {list}")) {
        only(one, known, place);
    }
}

#[test]
fn a_field_that_is_not_known_is_noticed() {
    let list = serde_json::json!([{"name": "a"}, {"nmae": "b"}]);
    assert!(std::panic::catch_unwind(|| only_in_each(&list, "name value", "params")).is_err());
    only(&list[0], "name value", "params");
}
