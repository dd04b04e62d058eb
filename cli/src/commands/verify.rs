//! `audit verify`: reads the whole log, oldest entry first, and says whether it fits together.

use switchyard_proto::api::v1 as pb;

use super::{Context, access, audit_pages::AuditPages, shift::tell};
use crate::{
    args::Verify,
    error::{Exit, Failure, Kind},
    hub::Hub,
    output::progress,
    render,
    verify::{Chain, Verdict},
};

/// The largest page that the hub gives.
const ENTRIES_A_PAGE: u32 = 1000;
/// A log of a million entries is read for a minute: who waits sees that it goes on.
const PAGES_A_LINE: usize = 100;

const WHAT: &str = "cannot verify the audit log";

pub async fn run(context: &Context, args: Verify) -> Result<Option<Exit>, Failure> {
    let hub = context.hub(false)?;
    // The hub leaves out what a caller may not see, and a log with entries left out never fits.
    let caller = access::ask(&hub).await?;
    if !caller.sees_everything() {
        let why = format!("{} does not see all of it, and a part of a chain cannot be verified", caller.identity);
        let remedy = "use a token or certificate with the role viewer over all namespaces and all clusters";
        return Err(Failure::new(Exit::Denied, WHAT, why, remedy));
    }
    // Before the entries: those that are written meanwhile come after it.
    let send = async |channel, request| Hub::audit(channel).get_audit_head(request).await;
    let head = hub.call(WHAT, Kind::Read, pb::GetAuditHeadRequest {}, send).await?;
    let promised = (head.id > 0).then_some((head.id, head.hash));
    let verdict = read(&hub, args.since_id, Chain::new(args.since_id, args.head, promised)).await?;
    context.output.show(&verdict, |paint, _| render::verified(&verdict, paint))?;
    Ok(tell(failure(&verdict)))
}

/// The namespace of `-n` and its variable is not looked at: a chain has no namespaces.
async fn read(hub: &Hub, since_id: u64, mut chain: Chain) -> Result<Verdict, Failure> {
    let mut pages = AuditPages::new(WHAT, true);
    let mut number = 0;
    while let Some(page_token) = pages.next_token() {
        let message = pb::ListAuditEntriesRequest {
            oldest_first: true,
            page_size: ENTRIES_A_PAGE,
            page_token,
            // A hub that does not know the field sends all of them; the chain leaves out what comes before.
            after_id: since_id.saturating_sub(1),
            ..pb::ListAuditEntriesRequest::default()
        };
        let send = async |channel, request| Hub::audit(channel).list_audit_entries(request).await;
        let answer = hub.call(WHAT, Kind::Read, message, send).await?;
        if !answer.entries.iter().all(|entry| chain.take(entry)) {
            break;
        }
        number += 1;
        let last = answer.entries.last().map(|entry| entry.id);
        if number % PAGES_A_LINE == 0 {
            progress(&format!("the audit log fits together so far, up to entry {}", last.unwrap_or_default()));
        }
        pages.came(answer.next_page_token, last)?;
    }
    Ok(chain.verdict())
}

fn failure(verdict: &Verdict) -> Option<Failure> {
    let remedy = "look at the entries with `yardctl audit --oldest-first -o jsonl`, compare them with a backup or an export, and find \
                  out who could write the database (docs/audit.md)";
    let problem = verdict.problem.as_ref()?;
    Some(Failure::new(Exit::Broken, "the audit log does not fit together", problem, remedy))
}
