//! Create, update, patch and delete against a store: the write verbs of the API, without HTTP. Each is one `Store::modify`,
//! so that checking a precondition and writing cannot be torn apart. Controllers of the sandbox use the same functions
//! where a client would, and `Store` directly where a kubelet would.

use std::sync::Arc;

use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::apply::{self, Manager};
use super::kinds::{KindId, LEASES, NAMESPACES, PODS, SERVICES};
use super::object::{Object, child, metadata, text};
use super::status::{self, ApiError};
use super::store::{Key, Store, Write};
use super::{patch, strategy};

/// Which object a write is for.
#[derive(Debug, Clone)]
pub struct Target {
    pub kind: KindId,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
    /// The status subresource instead of the object.
    pub status: bool,
}

impl Target {
    pub fn new(kind: KindId, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned(), status: false }
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

/// Options of a write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Field manager; empty leaves `managedFields` alone (controllers inside the sandbox).
    pub manager: String,
    pub dry_run: bool,
    /// Server-side apply: take fields over.
    pub force: bool,
}

/// The patch formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// `DeleteOptions`, as far as the sandbox honours them.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace_seconds: Option<u64>,
    pub uid: Option<String>,
    pub version: Option<String>,
    pub dry_run: bool,
}

fn finish(
    target: &Target,
    options: &WriteOptions,
    before: Option<&Arc<Object>>,
    mut value: Value,
) -> (Write, Arc<Object>) {
    if let Some(before) = before {
        if strategy::unchanged(before.value(), &value) {
            return (Write::Nothing, before.clone());
        }
        // The last finalizer is gone: a pending deletion takes effect. A pod also waits for its kubelet.
        let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty);
        let stopped = target.kind != PODS || value["metadata"]["deletionGracePeriodSeconds"] == 0;
        if before.terminating() && finalizers && stopped && target.kind != NAMESPACES {
            let object = Arc::new(Object::new(value));
            return (if options.dry_run { Write::Nothing } else { Write::Remove }, object);
        }
    }
    let row = target.kind.row();
    value["apiVersion"] = json!(row.api_version());
    value["kind"] = json!(row.kind);
    let object = Arc::new(Object::new(value.clone()));
    (if options.dry_run { Write::Nothing } else { Write::Put(value) }, object)
}

/// Five characters as Kubernetes draws them for generated names: no vowels, nothing that looks like another.
pub fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Creates an object. `target.name` may be empty: the body names it, or has it generated.
pub fn create(
    store: &Store,
    target: &Target,
    mut body: Value,
    options: &WriteOptions,
) -> Result<Arc<Object>, ApiError> {
    let row = target.kind.row();
    if !text(&body, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    strategy::bind(target.kind, &target.namespace, &target.name, &mut body)?;
    if row.namespaced {
        namespace_open(store, target)?;
    }
    metadata(&mut body).remove("managedFields");
    strategy::prepare_new(target.kind, &mut body, &Uuid::new_v4().to_string(), &random_suffix())?;
    if !options.manager.is_empty() {
        let manager = Manager { name: &options.manager, operation: "Update", subresource: "" };
        apply::record_update(row, None, &mut body, &manager);
    }
    let name = text(&body, "/metadata/name").to_owned();
    let target = Target { name, ..target.clone() };
    store_write(store, &target, |before| match before {
        Some(_) => Err(ApiError::already_exists(row, &target.name)),
        None => Ok(finish(&target, options, None, body)),
    })
}

fn namespace_open(store: &Store, target: &Target) -> Result<(), ApiError> {
    let namespace = store
        .get(NAMESPACES, "", &target.namespace)
        .ok_or_else(|| ApiError::not_found(NAMESPACES.row(), &target.namespace))?;
    if namespace.terminating() {
        let why =
            format!("unable to create new content in namespace {} because it is being terminated", target.namespace);
        let mut error = ApiError::bad_request(why);
        (error.code, error.reason) = (403, "Forbidden");
        return Err(error);
    }
    Ok(())
}

/// Runs a decision that also says what to answer, under the store's lock.
fn store_write(
    store: &Store,
    target: &Target,
    decide: impl FnOnce(Option<&Arc<Object>>) -> Result<(Write, Arc<Object>), ApiError>,
) -> Result<Arc<Object>, ApiError> {
    let mut answer = None;
    let written = store.modify(target.kind, &target.key(), |before| {
        let (write, object) = decide(before)?;
        // What is stored carries a version that only the store knows; what is not stored is answered as computed.
        if !matches!(write, Write::Put(_)) {
            answer = Some(object);
        }
        Ok(write)
    })?;
    answer.or(written).ok_or_else(|| ApiError::not_found(target.kind.row(), &target.name))
}

fn check_version(target: &Target, before: &Object, body: &Value) -> Result<(), ApiError> {
    let row = target.kind.row();
    let version = text(body, "/metadata/resourceVersion");
    if !version.is_empty() && version != before.text("/metadata/resourceVersion") {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(ApiError::conflict(row, &target.name, why));
    }
    let uid = text(body, "/metadata/uid");
    if !uid.is_empty() && uid != before.uid() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", before.uid());
        return Err(ApiError::conflict(row, &target.name, &why));
    }
    Ok(())
}

/// Replaces an object or its status.
pub fn update(
    store: &Store,
    target: &Target,
    mut body: Value,
    options: &WriteOptions,
) -> Result<Arc<Object>, ApiError> {
    strategy::bind(target.kind, &target.namespace, &target.name, &mut body)?;
    store_write(store, target, |before| {
        let before = before.ok_or_else(|| ApiError::not_found(target.kind.row(), &target.name))?;
        check_version(target, before, &body)?;
        let unconditional = !target.kind.row().custom && target.kind != LEASES;
        if text(&body, "/metadata/resourceVersion").is_empty() && !unconditional {
            let cause = "Invalid value: 0: must be specified for an update";
            return Err(ApiError::invalid(target.kind.row(), &target.name, "metadata.resourceVersion", cause));
        }
        changed(target, options, before, body)
    })
}

fn changed(
    target: &Target,
    options: &WriteOptions,
    before: &Arc<Object>,
    body: Value,
) -> Result<(Write, Arc<Object>), ApiError> {
    let mut value = strategy::prepare_update(target.kind, before.value(), body, target.status)?;
    // Clients do not manage the record of who manages what.
    let kept = before.value()["metadata"].get("managedFields").cloned();
    match kept {
        Some(kept) => metadata(&mut value).insert("managedFields".into(), kept),
        None => metadata(&mut value).remove("managedFields"),
    };
    if !options.manager.is_empty() {
        let subresource = if target.status { "status" } else { "" };
        let manager = Manager { name: &options.manager, operation: "Update", subresource };
        apply::record_update(target.kind.row(), Some(before.value()), &mut value, &manager);
    }
    Ok(finish(target, options, Some(before), value))
}

/// Patches an object or its status. True when the patch created it (server-side apply only).
pub fn patch(
    store: &Store,
    target: &Target,
    format: PatchKind,
    body: &Value,
    options: &WriteOptions,
) -> Result<(Arc<Object>, bool), ApiError> {
    if format == PatchKind::Apply {
        return apply_patch(store, target, body, options);
    }
    let row = target.kind.row();
    if format == PatchKind::Strategic && row.custom {
        let accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
        return Err(ApiError::unsupported_media_type(accepted));
    }
    let object = store_write(store, target, |before| {
        let before = before.ok_or_else(|| ApiError::not_found(row, &target.name))?;
        check_version(target, before, body)?;
        let mut value = before.value().clone();
        match format {
            PatchKind::Json => patch::json_patch(&mut value, body)?,
            PatchKind::Strategic => patch::strategic(row, &mut value, body)?,
            PatchKind::Merge | PatchKind::Apply => patch::merge(&mut value, body),
        }
        strategy::bind(target.kind, &target.namespace, &target.name, &mut value)?;
        changed(target, options, before, value)
    })?;
    Ok((object, false))
}

fn apply_patch(
    store: &Store,
    target: &Target,
    body: &Value,
    options: &WriteOptions,
) -> Result<(Arc<Object>, bool), ApiError> {
    let row = target.kind.row();
    if options.manager.is_empty() {
        let cause = "Required value: is required for apply patch";
        return Err(ApiError::invalid_options("PatchOptions", "fieldManager", cause));
    }
    let mut body = body.clone();
    strategy::bind(target.kind, &target.namespace, &target.name, &mut body)?;
    if row.namespaced && !target.status {
        namespace_open(store, target)?;
    }
    let subresource = if target.status { "status" } else { "" };
    let manager = Manager { name: &options.manager, operation: "Apply", subresource };
    let mut created = false;
    let object = store_write(store, target, |before| {
        let Some(before) = before else {
            if target.status {
                return Err(ApiError::not_found(row, &target.name));
            }
            created = true;
            strip_unwritable(row.status, false, &mut body);
            let mut value = apply::apply(row, None, &body, &manager, options.force)?;
            strategy::prepare_new(target.kind, &mut value, &Uuid::new_v4().to_string(), &random_suffix())?;
            return Ok(finish(target, options, None, value));
        };
        check_version(target, before, &body)?;
        strip_unwritable(row.status, target.status, &mut body);
        let applied = apply::apply(row, Some(before.value()), &body, &manager, options.force)?;
        let value = strategy::prepare_update(target.kind, before.value(), applied, target.status)?;
        Ok(finish(target, options, Some(before), value))
    })?;
    Ok((object, created))
}

/// Leaves in an apply patch only what this endpoint writes, so that nobody comes to own what it cannot set.
fn strip_unwritable(has_status: bool, status: bool, body: &mut Value) {
    let Value::Object(map) = body else { return };
    if status {
        map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        if let Some(Value::Object(meta)) = map.get_mut("metadata") {
            meta.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
        }
    } else if has_status {
        map.remove("status");
    }
}

/// Deletes an object: at once, or by marking it where a finalizer or a running pod holds it. Gives the answer's body.
pub fn delete(store: &Store, target: &Target, options: &DeleteOptions) -> Result<Value, ApiError> {
    let row = target.kind.row();
    let mut computed = None;
    let written = store.modify(target.kind, &target.key(), |before| {
        let before = before.ok_or_else(|| ApiError::not_found(row, &target.name))?;
        let (write, value) = deletion(target, before, options)?;
        let gone = matches!(write, Write::Remove);
        let write = if options.dry_run { Write::Nothing } else { write };
        computed = Some((value, gone));
        Ok::<_, ApiError>(write)
    })?;
    let (mut value, gone) = computed.ok_or_else(|| ApiError::not_found(row, &target.name))?;
    if gone && target.kind != PODS && target.kind != SERVICES {
        return Ok(status::deleted(row, &target.name, text(&value, "/metadata/uid")));
    }
    if let Some(written) = written {
        value["metadata"]["resourceVersion"] = json!(written.text("/metadata/resourceVersion"));
    }
    Ok(value)
}

/// What a deletion does, and the object as it leaves it.
fn deletion(target: &Target, before: &Arc<Object>, options: &DeleteOptions) -> Result<(Write, Value), ApiError> {
    let meta = json!({"metadata": {"uid": options.uid, "resourceVersion": options.version}});
    check_version(target, before, &meta)?;
    let grace = grace_seconds(target, before, options);
    let finalizers = before.value().pointer("/metadata/finalizers").and_then(Value::as_array);
    let held = finalizers.is_some_and(|f| !f.is_empty()) || target.kind == NAMESPACES;
    if grace == 0 && !held {
        // A pod is marked first, as if it were given no time.
        let last = if target.kind == PODS { mark_deleted(target, before, 0) } else { before.value().clone() };
        return Ok((Write::Remove, last));
    }
    let marked = mark_deleted(target, before, grace);
    if strategy::unchanged(before.value(), &marked) {
        return Ok((Write::Nothing, before.value().clone()));
    }
    Ok((Write::Put(marked.clone()), marked))
}

/// Only a pod that runs somewhere is given time.
fn grace_seconds(target: &Target, before: &Object, options: &DeleteOptions) -> u64 {
    if target.kind != PODS || before.text("/spec/nodeName").is_empty() {
        return 0;
    }
    let own = before.value().pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
    options.grace_seconds.unwrap_or(own.unwrap_or(30))
}

fn mark_deleted(target: &Target, before: &Object, grace: u64) -> Value {
    let mut value = before.value().clone();
    let already = before.terminating();
    let shorter = value["metadata"]["deletionGracePeriodSeconds"].as_u64().is_none_or(|old| grace < old);
    let meta = metadata(&mut value);
    if !already || shorter {
        let at = jiff::Timestamp::now()
            .saturating_add(jiff::SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX)))
            .unwrap_or(jiff::Timestamp::MAX);
        meta.insert("deletionTimestamp".into(), json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
    }
    // The wish to go counts as a change of what is wanted.
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|_| !already) {
        meta.insert("generation".into(), json!(generation + 1));
    }
    if target.kind == NAMESPACES {
        child(&mut value, "status").insert("phase".into(), json!("Terminating"));
    }
    value
}
