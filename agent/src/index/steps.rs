//! Small steps that the index is made of: one event moves one store, references are found by Service and by namespace, and a
//! reference that cannot name a Service is recognised. Pure, like everything beside it.

use std::collections::BTreeMap;

use super::{
    objects::{Object, ServiceRef, SourceEvent, TargetKind},
    store::{Applied, Store},
    watched::Watched,
};

/// What an event did to one object.
pub struct Change<T> {
    /// Its name.
    pub name: String,
    /// What was known of it.
    pub before: Option<T>,
    /// What it did.
    pub kind: ChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there, new or different.
    Put,
    /// It was seen to be deleted.
    Deleted,
    /// It is missing from a complete list.
    Absent,
}

/// Moves a store by one event; the same for every kind of object.
pub fn advance<T: PartialEq>(
    store: &mut Store<T>,
    event: SourceEvent,
    extract: impl Fn(Object) -> Option<(String, T)>,
) -> Vec<Change<T>> {
    match event {
        SourceEvent::ListStarted => store.list_started(),
        SourceEvent::Listed(object) => {
            if let Some((name, object)) = extract(object) {
                store.listed(name, object);
            }
        }
        SourceEvent::ListDone => {
            let Some(swapped) = store.list_done() else { return Vec::new() };
            let put = swapped.changed.into_iter().map(|(name, before)| Change { name, before, kind: ChangeKind::Put });
            let absent = swapped.absent.into_iter();
            let absent = absent.map(|(name, before)| Change { name, before: Some(before), kind: ChangeKind::Absent });
            return put.chain(absent).collect();
        }
        SourceEvent::Applied(object) => {
            if let Some((name, object)) = extract(object)
                && let Applied::Changed(before) = store.applied(name.clone(), object)
            {
                return vec![Change { name, before, kind: ChangeKind::Put }];
            }
        }
        SourceEvent::Deleted(object) => {
            if let Some((name, last)) = extract(object) {
                let before = Some(store.deleted(&name).unwrap_or(last));
                return vec![Change { name, before, kind: ChangeKind::Deleted }];
            }
        }
        SourceEvent::Following => store.following(),
        SourceEvent::Failing(message) => store.failing(message),
    }
    Vec::new()
}

/// All references to ports of that Service.
pub fn of_service<'a>(
    watched: &'a mut BTreeMap<ServiceRef, Watched>,
    namespace: &'a str,
    name: &'a str,
) -> impl Iterator<Item = &'a mut Watched> {
    let first = ServiceRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port: String::new(),
        targets: TargetKind::Pods,
    };
    let same = move |reference: &ServiceRef| reference.namespace == namespace && reference.name == name;
    watched.range_mut(first..).take_while(move |(reference, _)| same(reference)).map(|(_, watched)| watched)
}

/// All references to Services of that namespace.
pub fn of_namespace<'a>(
    watched: &'a mut BTreeMap<ServiceRef, Watched>,
    namespace: &'a str,
) -> impl Iterator<Item = &'a mut Watched> {
    let first = ServiceRef {
        namespace: namespace.to_owned(),
        name: String::new(),
        port: String::new(),
        targets: TargetKind::Pods,
    };
    watched
        .range_mut(first..)
        .take_while(move |(reference, _)| reference.namespace == namespace)
        .map(|(_, watched)| watched)
}

/// What is wrong with a reference, if anything. Names go into request paths, so only what Kubernetes allows may pass.
pub fn invalid(reference: &ServiceRef) -> Option<String> {
    // RFC 1123 label: the limit of namespace and Service names. Port names are shorter still.
    const LABEL: usize = 63;
    let is_label = |text: &str| {
        !text.is_empty()
            && text.len() <= LABEL
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    let fields = [("namespace", &reference.namespace), ("name", &reference.name), ("port", &reference.port)];
    let (field, _) = fields.into_iter().find(|(_, value)| !is_label(value))?;
    Some(format!(
        "the {field} of this reference is not a DNS label (1 to {LABEL} lower-case letters, digits and dashes); correct it in the policy"
    ))
}
