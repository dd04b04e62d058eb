//! How many connections the platform lets the hub have. Every connection is a file descriptor, and a hub that has none left reaches
//! neither its database nor AWS: so the limit is raised as far as it may be, and the ports leave the rest something.

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};

use crate::door::MOST_CONNECTIONS;

/// For everything that is not a connection of gRPC and gateway: 256 at the port of health and metrics, where anybody may come, and 256 for the
/// database's pool, AWS, issuers and files.
const RESERVED: u64 = 512;
/// Fewer connections are of no use: some agents with four each, and people.
const FEWEST: u64 = 128;

/// Why the hub cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limited {
    /// The platform said no.
    #[error("the limit of open files (RLIMIT_NOFILE) cannot be read or raised to its hard limit")]
    Unknown(#[source] Errno),
    /// Too few.
    #[error(
        "this process may have {0} open files, of which {RESERVED} are not for connections, and at least {FEWEST} connections have to be \
         possible; raise the hard limit to 4608 or more (ulimit -Hn, LimitNOFILE of systemd, or the container runtime's default)"
    )]
    TooFew(u64),
}

/// Raises the limit, and gives the connections that there is room for.
///
/// # Errors
/// [`Limited`].
pub(super) fn connections() -> Result<usize, Limited> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Limited::Unknown)?;
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        // Not allowed here: what there is may do.
        Err(Errno::EPERM | Errno::EINVAL) => soft,
        Err(error) => return Err(Limited::Unknown(error)),
    };
    let room = room(limit)?;
    if room < MOST_CONNECTIONS {
        tracing::warn!(
            limit,
            connections = room,
            "the limit of open files leaves room for fewer connections than the hub takes elsewhere"
        );
    }
    Ok(room)
}

fn room(limit: u64) -> Result<usize, Limited> {
    match limit.saturating_sub(RESERVED) {
        room if room < FEWEST => Err(Limited::TooFew(limit)),
        room => Ok(usize::try_from(room).unwrap_or(usize::MAX).min(MOST_CONNECTIONS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_rest_of_the_hub_its_files() {
        assert_eq!(room(u64::MAX), Ok(MOST_CONNECTIONS));
        assert_eq!(room(1024), Ok(512));
        assert_eq!(room(640), Ok(128));
        assert_eq!(room(639), Err(Limited::TooFew(639)));
        assert_eq!(room(0), Err(Limited::TooFew(0)));
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Low enough to be seen, and high enough for the tests beside this one.
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(1024), hard).unwrap();
        connections().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
