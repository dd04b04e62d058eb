//! `history`, `get shifts` and `audit`: what was moved, by whom, and why.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{Context, audit_pages::AuditPages, get::Pages, shift_act};
use crate::{
    args::{Audit, Format, History},
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::{AuditEntry, PolicyRef, Shift},
    output::{json_line, note, now},
    parse::ShiftName,
    render,
};

/// The largest pages that the hub gives.
const SHIFTS_A_PAGE: u32 = 200;
const ENTRIES_A_PAGE: u32 = 1000;
/// As `history` without `--limit`.
const SHIFTS_IN_A_LIST: usize = 50;
/// A table of more is not read.
const ENTRIES_IN_A_TABLE: usize = 100;

#[derive(Serialize)]
struct Shifts {
    shifts: Vec<Shift>,
}

#[derive(Serialize)]
struct Entries {
    entries: Vec<AuditEntry>,
}

pub async fn history(context: &Context, args: History) -> Result<(), Failure> {
    let policy = args.policy.map(|name| name.resolve(context.namespace())).transpose()?;
    list(context, policy.as_ref(), args.active, args.limit).await
}

/// `get shifts [SHIFT|POLICY]`.
pub async fn get(context: &Context, name: Option<ShiftName>) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let shift = match name {
        None => return list(context, None, false, SHIFTS_IN_A_LIST).await,
        Some(ShiftName::Id(id)) => shift_act::find(&hub, &id).await?,
        Some(ShiftName::Policy(name)) => {
            let policy = name.resolve(context.namespace())?;
            // The list may leave out what only the detailed view shows.
            match shift_act::newest(&hub, &policy, false).await? {
                Some(shift) => shift_act::find(&hub, &shift.id).await?,
                None => {
                    let what = format!("cannot show a shift of {policy}");
                    let remedy = "see which there are with `yardctl history`";
                    return Err(Failure::new(Exit::NotFound, what, "no shift ever moved it", remedy));
                }
            }
        }
    };
    context.output.show(&shift, |paint, now| render::shift(&shift, paint, now))
}

/// At most `limit`, newest first; 0: all.
async fn list(context: &Context, policy: Option<&PolicyRef>, active: bool, limit: usize) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut pages = Pages::new("cannot list the shifts");
    let mut shifts: Vec<Shift> = Vec::new();
    while shifts.len() < limit
        && let Some(page_token) = pages.next_token()?
    {
        let message = pb::ListShiftsRequest {
            namespace: if policy.is_some() {
                String::new()
            } else {
                context.namespace().unwrap_or_default().to_owned()
            },
            policy: policy.map(Into::into),
            active,
            page_size: page_size(limit - shifts.len(), SHIFTS_A_PAGE),
            page_token,
        };
        let send = async |channel, request| Hub::shifts(channel).list_shifts(request).await;
        let answer = hub.call(pages.what, Kind::Read, message, send).await?;
        shifts.extend(answer.shifts.into_iter().map(Shift::from));
        pages.came(answer.next_page_token);
    }
    let cut = pages.has_more() || shifts.len() > limit;
    shifts.truncate(limit);
    let list = Shifts { shifts };
    context.output.show(&list, |paint, now| render::history(&list.shifts, paint, now))?;
    if cut {
        note(&format!("There are more: these are the {limit} newest; `yardctl history --limit 0` shows all.\n"));
    }
    Ok(())
}

fn page_size(wanted: usize, most: u32) -> u32 {
    u32::try_from(wanted).unwrap_or(most).min(most)
}

/// JSON lines are written page by page: the whole log need not fit into memory.
pub async fn audit(context: &Context, args: Audit) -> Result<(), Failure> {
    let policy = args.policy.map(|name| name.resolve(context.namespace())).transpose()?;
    let hub = context.hub(false)?;
    let format = context.output.format;
    let default = if format == Format::Table { ENTRIES_IN_A_TABLE } else { 0 };
    let limit = Some(args.limit.unwrap_or(default)).filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let now = now();
    let time = |moment: Option<crate::parse::Moment>| moment.map(|moment| to_proto(moment.at(now)));
    let (since, before) = (time(args.since), time(args.before));
    let mut pages = AuditPages::new("cannot read the audit log", args.oldest_first);
    let (mut entries, mut count) = (Vec::new(), 0);
    while count < limit
        && let Some(page_token) = pages.next_token()
    {
        let message = pb::ListAuditEntriesRequest {
            namespace: if policy.is_some() {
                String::new()
            } else {
                context.namespace().unwrap_or_default().to_owned()
            },
            policy: policy.as_ref().map(Into::into),
            shift_id: args.shift.clone(),
            actor: args.actor.clone(),
            since,
            before,
            oldest_first: args.oldest_first,
            result: args.result.map(|result| result.word().to_owned()).unwrap_or_default(),
            page_size: page_size(limit - count, ENTRIES_A_PAGE),
            page_token,
            after_id: 0,
        };
        let send = async |channel, request| Hub::audit(channel).list_audit_entries(request).await;
        let answer = hub.call(pages.what, Kind::Read, message, send).await?;
        let last = answer.entries.last().map(|entry| entry.id);
        let page: Vec<AuditEntry> = answer.entries.into_iter().take(limit - count).map(AuditEntry::from).collect();
        count += page.len();
        match format {
            Format::Jsonl => page.iter().try_for_each(json_line)?,
            Format::Table | Format::Json | Format::Yaml => entries.extend(page),
        }
        pages.came(answer.next_page_token, last)?;
    }
    if format == Format::Jsonl {
        return Ok(());
    }
    let list = Entries { entries };
    context.output.show(&list, |paint, _| render::audit(&list.entries, paint))?;
    if pages.has_more() {
        note(&format!("There are more than these {count}; --limit 0 shows all.\n"));
    }
    let narrowed = policy.is_some() || context.namespace().is_some();
    if format == Format::Table && narrowed && args.shift.is_empty() {
        note(
            "Changes of gating switches belong to no one policy: `yardctl audit` without policy and namespace lists them.\n",
        );
    }
    Ok(())
}

fn to_proto(at: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}
