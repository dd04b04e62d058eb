//! The known differences between a real API server and the sandbox's. A difference that is not here fails the test, and so does a
//! row here that is no difference any more.

/// One known difference.
#[derive(Debug)]
pub struct Known {
    /// The step; empty: in any; `*` at the end is anything.
    pub step: &'static str,
    /// Where in the answer; `*` at the end is anything.
    pub path: &'static str,
    /// Why it differs.
    #[expect(dead_code, reason = "it is for those who read the table")]
    pub why: &'static str,
}

const fn row(step: &'static str, path: &'static str, why: &'static str) -> Known {
    Known { step, path, why }
}

/// The table.
pub const KNOWN: &[Known] = &[
    row("", "body.message", "sentences for people; programs go by code and reason"),
    row("", "body.details.causes[].message", "as above"),
    row("ports without names", "body.details.causes", "the sandbox names the first fault only"),
    row("a port out of range", "body.details.causes", "as above"),
    row("a deletion of another object", "body.details.kind", "Services name the kind here and the plural elsewhere"),
    row(
        "a replacement without a version",
        "body.details.kind",
        "custom resources name the plural, built-in kinds the kind",
    ),
    row(
        "a strategic merge of a custom resource",
        "body.details",
        "custom resources have none here, built-in kinds empty ones",
    ),
    row("a group that is not there", "body", "where no group is served a real server answers with plain text"),
    row("a watch from no version", "*", "a real server calls this mistake its own; the sandbox says whose it is"),
    row("a new object with a version", "*", "as above"),
    row("", "body.spec.containers[].*", "defaults of containers that nothing in the sandbox reads"),
    row("", "body.spec.enableServiceLinks", "a default of pods that nothing in the sandbox reads"),
    row("", "body.spec.securityContext", "as above"),
    row("", "body.spec.preemptionPolicy", "made by admission, of which the sandbox has none"),
    row("", "body.spec.priority", "as above"),
    row("", "body.spec.tolerations", "as above"),
    row(
        "",
        "body.status.conditions[].lastProbeTime",
        "a null that old fields of built-in kinds show when they are not set",
    ),
    row("an event", "body.eventTime", "as above"),
    row("an event", "body.firstTimestamp", "as above"),
    row("an event", "body.lastTimestamp", "as above"),
    row("an event", "body.reporting*", "an empty text, as above"),
    row("an event of the newer API", "body.deprecated*", "as above"),
    row("a slice with nothing in it", "body.endpoints", "an empty list of a built-in kind shows as null"),
    row("a streaming list", "body[].object.spec", "the bookmark of a built-in kind shows its empty fields"),
    row(
        "",
        "body.metadata.managedFields[].fieldsV1.f:spec*",
        "who sends a pod owns the defaults above; a headless Service its address",
    ),
    row("", "body.metadata.managedFields[].fieldsV1.f:status.f:conditions*", "the null above has an owner"),
    row(
        "a pod with a name that is made up",
        "body.metadata.managedFields[].fieldsV1.f:metadata",
        "the sandbox notes no owner of generateName",
    ),
    row(
        "another port by strategic merge",
        "body.spec.ports[].*",
        "where a new item goes when the patch does not say: first there, last in the sandbox",
    ),
    row("our resources", "body.resources[].categories", "the sandbox knows no categories"),
    row("", "body.resources[].storageVersionHash", "for the storage migrator"),
    row("the core version", "body.serverAddressByClientCIDRs[].serverAddress", "each has its own address"),
];
