//! The kinds a sandbox cluster serves, as a table. Everything else in `kube/` is generic over a row of it, so that a new
//! kind is one new row. Decides scope, subresources and how lists merge; touches no state and must import no IO.
//! Tests are at the end of the file.

/// How a list (or map) field behaves under strategic merge patch and server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Replaced as a whole, owned as a whole.
    Atomic,
    /// Items are identified by these keys. The first one is the strategic merge key.
    ByKeys(&'static [&'static str]),
    /// Items are scalars that are present or absent.
    Set,
}

/// One served kind.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub namespaced: bool,
    /// Whether `status` is a subresource: writes to the object leave it alone and the other way round.
    pub status: bool,
    /// Whether `metadata.generation` counts changes outside metadata and status.
    pub generation: bool,
    /// Custom resources know no strategic merge patch.
    pub custom: bool,
    /// Merge rules by dotted path from the root, list indices left out. What is not named is atomic if it is a list
    /// and merged field by field if it is a map.
    pub merges: &'static [(&'static str, Merge)],
}

/// Index of a row in [`KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KindId(usize);

pub const NAMESPACES: KindId = KindId(0);
pub const SERVICES: KindId = KindId(1);
pub const PODS: KindId = KindId(2);
pub const NODES: KindId = KindId(3);
pub const EVENTS: KindId = KindId(4);
pub const ENDPOINT_SLICES: KindId = KindId(5);
pub const DEPLOYMENTS: KindId = KindId(6);
pub const LEASES: KindId = KindId(7);
pub const CLUSTER_TRAFFIC_POLICIES: KindId = KindId(8);
/// The newer API of events, which recorders write. Kubernetes shows the same objects under both; here they are two kinds.
pub const EVENTS_V1: KindId = KindId(9);

/// Rules every kind shares.
const META: &[(&str, Merge)] =
    &[("metadata.finalizers", Merge::Set), ("metadata.ownerReferences", Merge::ByKeys(&["uid"]))];

const POD: &[(&str, Merge)] = &[
    ("spec.containers", Merge::ByKeys(&["name"])),
    ("spec.initContainers", Merge::ByKeys(&["name"])),
    ("spec.containers.ports", Merge::ByKeys(&["containerPort", "protocol"])),
    ("spec.containers.env", Merge::ByKeys(&["name"])),
    ("spec.containers.volumeMounts", Merge::ByKeys(&["mountPath"])),
    ("spec.volumes", Merge::ByKeys(&["name"])),
    ("spec.imagePullSecrets", Merge::ByKeys(&["name"])),
    ("spec.topologySpreadConstraints", Merge::ByKeys(&["topologyKey", "whenUnsatisfiable"])),
    ("spec.nodeSelector", Merge::Atomic),
    ("status.conditions", Merge::ByKeys(&["type"])),
    ("status.podIPs", Merge::ByKeys(&["ip"])),
];

const SERVICE: &[(&str, Merge)] = &[
    ("spec.ports", Merge::ByKeys(&["port", "protocol"])),
    ("spec.selector", Merge::Atomic),
    ("status.conditions", Merge::ByKeys(&["type"])),
];

const NODE: &[(&str, Merge)] = &[
    ("spec.taints", Merge::ByKeys(&["key"])),
    ("status.conditions", Merge::ByKeys(&["type"])),
    ("status.addresses", Merge::ByKeys(&["type"])),
];

const CONDITIONS: &[(&str, Merge)] = &[("status.conditions", Merge::ByKeys(&["type"]))];
const DEPLOYMENT: &[(&str, Merge)] =
    &[("spec.selector", Merge::Atomic), ("status.conditions", Merge::ByKeys(&["type"]))];
const POLICY: &[(&str, Merge)] = &[
    ("spec.clusters", Merge::ByKeys(&["name"])),
    ("status.clusters", Merge::ByKeys(&["name"])),
    ("status.conditions", Merge::ByKeys(&["type"])),
];

/// Every kind, in the order discovery shows them.
pub const KINDS: &[Kind] = &[
    Kind {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        generation: false,
        custom: false,
        merges: CONDITIONS,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        namespaced: true,
        status: true,
        generation: false,
        custom: false,
        merges: SERVICE,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        namespaced: true,
        status: true,
        generation: true,
        custom: false,
        merges: POD,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        status: true,
        generation: false,
        custom: false,
        merges: NODE,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        namespaced: true,
        status: false,
        generation: false,
        custom: false,
        merges: &[("involvedObject", Merge::Atomic)],
    },
    Kind {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        namespaced: true,
        status: false,
        generation: true,
        custom: false,
        merges: &[],
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        namespaced: true,
        status: true,
        generation: true,
        custom: false,
        merges: DEPLOYMENT,
    },
    Kind {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        namespaced: true,
        status: false,
        generation: false,
        custom: false,
        merges: &[],
    },
    Kind {
        group: "switchyard.dev",
        version: "v1alpha1",
        kind: "ClusterTrafficPolicy",
        plural: "clustertrafficpolicies",
        singular: "clustertrafficpolicy",
        short_names: &["ctp"],
        namespaced: true,
        status: true,
        generation: true,
        custom: true,
        merges: POLICY,
    },
    Kind {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        namespaced: true,
        status: false,
        generation: false,
        custom: false,
        merges: &[("regarding", Merge::Atomic)],
    },
];

impl KindId {
    /// The row itself.
    pub fn row(self) -> &'static Kind {
        &KINDS[self.0]
    }

    /// The kind served at `/apis/{group}/{version}/.../{plural}`.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<KindId> {
        KINDS.iter().position(|k| k.group == group && k.version == version && k.plural == plural).map(KindId)
    }

    /// Every kind of the table.
    pub fn all() -> impl Iterator<Item = KindId> {
        (0..KINDS.len()).map(KindId)
    }
}

impl Kind {
    /// `v1` or `group/version`, as it stands in `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// How the field at `path` merges; `None` when the table says nothing about it.
    pub fn merge_rule(&self, path: &[String]) -> Option<Merge> {
        let dotted = path.join(".");
        let found = |table: &[(&str, Merge)], name: &str| table.iter().find(|(p, _)| *p == name).map(|(_, m)| *m);
        if let Some(rule) = found(META, &dotted).or_else(|| found(self.merges, &dotted)) {
            return Some(rule);
        }
        // A pod template follows the rules of a pod.
        let in_template = dotted.strip_prefix("spec.template.")?;
        if self.plural == "deployments" { found(POD, in_template).or_else(|| found(META, in_template)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(dotted: &str) -> Vec<String> {
        dotted.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn every_named_constant_points_at_its_own_row() {
        for (id, plural) in [
            (NAMESPACES, "namespaces"),
            (SERVICES, "services"),
            (PODS, "pods"),
            (NODES, "nodes"),
            (EVENTS, "events"),
            (ENDPOINT_SLICES, "endpointslices"),
            (DEPLOYMENTS, "deployments"),
            (LEASES, "leases"),
            (CLUSTER_TRAFFIC_POLICIES, "clustertrafficpolicies"),
            (EVENTS_V1, "events"),
        ] {
            assert_eq!(id.row().plural, plural);
            assert_eq!(KindId::find(id.row().group, id.row().version, plural), Some(id));
        }
        assert_eq!(KindId::all().count(), 10);
    }

    #[test]
    fn a_pod_template_merges_like_a_pod() {
        let rule = DEPLOYMENTS.row().merge_rule(&path("spec.template.spec.containers.ports"));
        assert_eq!(rule, Some(Merge::ByKeys(&["containerPort", "protocol"])));
        assert_eq!(PODS.row().merge_rule(&path("spec.containers.args")), None);
    }
}
