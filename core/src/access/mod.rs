//! Who may do what. A caller is found out at the door ([`identity`]), gets what the access file and its own token give it
//! ([`config`], [`Grants`]), and may then do what the one table ([`table`]) asks for. Everything is denied that no grant allows.
//!
//! A grant is a rectangle: the policies of some namespaces, as far as they concern some clusters. What a call touches is a set of
//! cells of that plane; each of them has to lie in a grant of a sufficient role. Tests: `core/tests/access_*.rs`.

pub mod authority;
pub mod config;
pub mod identity;
pub mod table;
pub mod tokens;
pub mod turns;

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterName, Namespace};

pub use config::{AccessConfig, RawAccess};
pub use identity::Identity;
pub use table::{Kind, Need, Who, need};

/// What a caller may do, each role with all that the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Moves traffic: shifts, weights, failback, cordon, drain, drills, switches.
    Operator,
    /// Writes policies, joins and removes clusters, gives and takes access.
    Admin,
}

impl Role {
    /// The word of the role, as in the access file.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// The role of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        [Role::Viewer, Role::Operator, Role::Admin].into_iter().find(|role| role.word() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// All names there are and will be, or some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Span<T: Ord> {
    /// Every name, also those that come later.
    All,
    /// These.
    Only(BTreeSet<T>),
}

impl<T: Ord> Span<T> {
    /// True when the name is one of them.
    pub fn holds(&self, name: &T) -> bool {
        match self {
            Span::All => true,
            Span::Only(names) => names.contains(name),
        }
    }

    fn is_all(&self) -> bool {
        matches!(self, Span::All)
    }
}

impl<T: Ord + fmt::Display> fmt::Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Names in a sentence.
        const MOST: usize = 5;
        match self {
            Span::All => f.write_str("*"),
            Span::Only(names) => {
                let shown: Vec<String> = names.iter().take(MOST).map(ToString::to_string).collect();
                let more = names.len().saturating_sub(MOST);
                write!(f, "{}", shown.join(", "))?;
                if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
            }
        }
    }
}

/// A role over the policies of some namespaces, as far as they concern some clusters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What may be done.
    pub role: Role,
    /// Policies of these namespaces.
    pub namespaces: Span<Namespace>,
    /// These clusters.
    pub clusters: Span<ClusterName>,
    /// Safety rules may be crossed with what the role allows.
    pub overrides: bool,
}

impl Grant {
    /// Everything, overrides included.
    pub fn everything() -> Self {
        Self { role: Role::Admin, namespaces: Span::All, clusters: Span::All, overrides: true }
    }

    fn is_over_everything(&self) -> bool {
        self.namespaces.is_all() && self.clusters.is_all()
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.overrides { " with overrides" } else { "" };
        write!(f, "{}{with} (namespaces {}; clusters {})", self.role, self.namespaces, self.clusters)
    }
}

/// What a call touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch<'a> {
    /// A policy of this namespace, whatever its clusters.
    Policy(&'a Namespace),
    /// The weights of these clusters in a policy of this namespace.
    Weights(&'a Namespace, &'a BTreeSet<ClusterName>),
    /// This cluster, in all namespaces at once.
    Cluster(&'a ClusterName),
    /// This cluster, in some namespace: for reads.
    SomeCluster(&'a ClusterName),
    /// Everything.
    Hub,
}

impl fmt::Display for Touch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Touch::Policy(namespace) => write!(f, "policies of namespace {namespace}"),
            Touch::Weights(namespace, clusters) => {
                let clusters = Span::Only((*clusters).clone());
                write!(f, "policies of namespace {namespace} on the clusters {clusters}")
            }
            Touch::Cluster(cluster) => write!(f, "cluster {cluster} in all namespaces"),
            Touch::SomeCluster(cluster) => write!(f, "cluster {cluster}"),
            Touch::Hub => f.write_str("all namespaces and all clusters"),
        }
    }
}

/// What a caller lacks. A sentence without the caller's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the role {needs}{} over {touch} is needed, and {has}; ask an admin for it (docs/access.md), see what you have with `yardctl whoami`",
        if *.overrides { " with overrides" } else { "" })]
pub struct Denied {
    /// The role that is needed.
    pub needs: Role,
    /// With the right to cross safety rules.
    pub overrides: bool,
    /// Over what.
    pub touch: String,
    /// What the caller has.
    pub has: String,
}

/// Everything that a caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(pub Vec<Grant>);

impl Grants {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything.
    pub fn everything() -> Self {
        Self(vec![Grant::everything()])
    }

    /// True when there is no grant at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// May this be done with this role?
    ///
    /// # Errors
    /// [`Denied`] with what is lacking.
    pub fn check(&self, role: Role, touch: &Touch<'_>) -> Result<(), Denied> {
        self.check_with(role, false, touch)
    }

    /// May this be done across safety rules?
    ///
    /// # Errors
    /// [`Denied`] with what is lacking.
    pub fn check_overrides(&self, role: Role, touch: &Touch<'_>) -> Result<(), Denied> {
        self.check_with(role, true, touch)
    }

    fn check_with(&self, role: Role, overrides: bool, touch: &Touch<'_>) -> Result<(), Denied> {
        let good = |grant: &&Grant| grant.role >= role && (grant.overrides || !overrides);
        let allowed = match touch {
            Touch::Policy(namespace) => self.0.iter().filter(good).any(|grant| grant.namespaces.holds(namespace)),
            // Each cell on its own: one grant may give blue, another one green.
            Touch::Weights(namespace, clusters) if !clusters.is_empty() => clusters.iter().all(|cluster| {
                let mut grants = self.0.iter().filter(good);
                grants.any(|grant| grant.namespaces.holds(namespace) && grant.clusters.holds(cluster))
            }),
            Touch::Weights(namespace, _) => self.0.iter().filter(good).any(|grant| grant.namespaces.holds(namespace)),
            Touch::Cluster(cluster) => {
                self.0.iter().filter(good).any(|grant| grant.namespaces.is_all() && grant.clusters.holds(cluster))
            }
            Touch::SomeCluster(cluster) => self.0.iter().filter(good).any(|grant| grant.clusters.holds(cluster)),
            Touch::Hub => self.0.iter().filter(good).any(Grant::is_over_everything),
        };
        if allowed {
            return Ok(());
        }
        Err(Denied { needs: role, overrides, touch: touch.to_string(), has: self.words() })
    }

    /// True when policies of this namespace may be read.
    pub fn sees_namespace(&self, namespace: &Namespace) -> bool {
        self.0.iter().any(|grant| grant.namespaces.holds(namespace))
    }

    /// True when this cluster may be read.
    pub fn sees_cluster(&self, cluster: &ClusterName) -> bool {
        self.0.iter().any(|grant| grant.clusters.holds(cluster))
    }

    /// True when endpoints of this cluster in this namespace may be read.
    pub fn sees_cell(&self, namespace: &Namespace, cluster: &ClusterName) -> bool {
        self.0.iter().any(|grant| grant.namespaces.holds(namespace) && grant.clusters.holds(cluster))
    }

    /// True when everything may be read.
    pub fn sees_all(&self) -> bool {
        self.0.iter().any(Grant::is_over_everything)
    }

    /// The namespaces that may be read; none: all of them.
    pub fn seen_namespaces(&self) -> Option<BTreeSet<Namespace>> {
        let mut seen = BTreeSet::new();
        for grant in &self.0 {
            match &grant.namespaces {
                Span::All => return None,
                Span::Only(names) => seen.extend(names.iter().cloned()),
            }
        }
        Some(seen)
    }

    /// True when there is a grant of this role at least, over whatever.
    pub fn has_role_somewhere(&self, role: Role) -> bool {
        self.0.iter().any(|grant| grant.role >= role)
    }

    /// True when each grant of the other lies within a single one of these: nobody gives away more than he has.
    pub fn covers(&self, other: &Grants) -> bool {
        other.0.iter().all(|given| self.0.iter().any(|own| own.contains(given)))
    }

    fn words(&self) -> String {
        /// Grants in a sentence.
        const MOST: usize = 5;
        if self.0.is_empty() {
            return "there is no binding for this caller".to_owned();
        }
        let shown: Vec<String> = self.0.iter().take(MOST).map(ToString::to_string).collect();
        let more = self.0.len().saturating_sub(MOST);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("this caller has {}{more}", shown.join(", "))
    }
}

impl Grant {
    fn contains(&self, other: &Grant) -> bool {
        self.role >= other.role
            && (self.overrides || !other.overrides)
            && contains(&self.namespaces, &other.namespaces)
            && contains(&self.clusters, &other.clusters)
    }
}

fn contains<T: Ord>(outer: &Span<T>, inner: &Span<T>) -> bool {
    match (outer, inner) {
        (Span::All, _) => true,
        (Span::Only(_), Span::All) => false,
        (Span::Only(outer), Span::Only(inner)) => inner.is_subset(outer),
    }
}
