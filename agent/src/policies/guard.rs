//! When the end of resources is believed. When the resource definition is deleted, the API server deletes every resource with it, one
//! by one, and each looks like a deletion by a person. So a deletion, and a list, count only when the definition that was there when
//! the resources were listed still stands.

/// What the API server says of the resource definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    /// It is there.
    Standing {
        /// Its UID.
        uid: String,
    },
    /// It has a deletionTimestamp.
    Terminating,
    /// There is none.
    Missing,
}

/// Judges what was seen between two looks at the definition of that name, of which `now` is the second. `before` is its UID at the
/// first.
///
/// # Errors
/// Says for people why nothing of it is believed.
pub fn believe(name: &str, before: &str, now: &Definition) -> Result<(), String> {
    match now {
        Definition::Standing { uid } if uid == before => Ok(()),
        Definition::Standing { .. } => Err(format!(
            "the CustomResourceDefinition {name} was deleted and created anew, and its resources went with it; this removes \
             nothing at the hub"
        )),
        gone @ (Definition::Terminating | Definition::Missing) => Err(gone.complaint(name)),
    }
}

impl Definition {
    /// The UID of a definition that stands.
    ///
    /// # Errors
    /// Says for people what is wrong, and what to do.
    pub fn standing(&self, name: &str) -> Result<&str, String> {
        match self {
            Self::Standing { uid } => Ok(uid),
            gone @ (Self::Terminating | Self::Missing) => Err(gone.complaint(name)),
        }
    }

    fn complaint(&self, name: &str) -> String {
        let state = match self {
            Self::Standing { .. } => "stands",
            Self::Terminating => "is being deleted",
            Self::Missing => "does not exist",
        };
        format!(
            "the CustomResourceDefinition {name} {state}; what was taken stays in force, and more is taken once it is installed \
             (chart switchyard-crds)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(uid: &str) -> Definition {
        Definition::Standing { uid: uid.to_owned() }
    }

    #[test]
    fn only_the_same_definition_makes_an_end_believable() {
        assert_eq!(believe("it", "a", &standing("a")), Ok(()));
        for (now, why) in [
            (standing("b"), "was deleted and created anew"),
            (Definition::Terminating, "is being deleted"),
            (Definition::Missing, "does not exist"),
        ] {
            let message = believe("it", "a", &now).expect_err("not believed");
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_definition_that_goes_has_no_uid_to_go_by() {
        assert_eq!(standing("a").standing("it"), Ok("a"));
        assert!(Definition::Terminating.standing("it").is_err());
        assert!(Definition::Missing.standing("it").is_err_and(|message| message.contains("chart switchyard-crds")));
    }
}
