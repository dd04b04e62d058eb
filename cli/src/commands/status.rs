//! `status`: one look at a policy, or a watch of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Context, get};
use crate::{
    args::{Format, Status},
    changes::changes,
    error::{Exit, Failure},
    hub::{Hub, News},
    model::{Event, Policy, PolicyRef, Shift},
    output::{json_line, now, on_terminal, progress, stamped, terminal_rows, write},
    render,
};

/// Ages on the page ("5s ago") are redrawn that often.
const REDRAW: Duration = Duration::from_secs(1);
/// How old what the page says of a shift may be: the hub's replicas read their store every 2 s.
const SHIFT_AGAIN: Duration = Duration::from_secs(2);

pub async fn run(context: &Context, args: Status) -> Result<(), Failure> {
    let reference = args.policy.resolve(context.namespace())?;
    if args.watch {
        return watch(context, &reference).await;
    }
    let hub = context.hub(false)?;
    let policy = get::policy(&hub, &reference).await?;
    let shift = shift_of(&hub, &reference).await;
    let page = Page { policy: &policy, shift: shift.as_ref() };
    context.output.show(&page, |paint, now| render::status(&policy, shift.as_ref(), paint, now))
}

/// The policy, and the shift that moves it now.
#[derive(Serialize)]
struct Page<'a> {
    #[serde(flatten)]
    policy: &'a Policy,
    shift: Option<&'a Shift>,
}

/// The page is worth having without it: what went wrong is told beside it.
async fn shift_of(hub: &Hub, reference: &PolicyRef) -> Option<Shift> {
    hub.peek_shift(reference).await.unwrap_or_else(|why| {
        progress(&format!("whether a shift moves {reference} is not known: {why}"));
        None
    })
}

/// Looks for the policy's shift again and again, beside the watch of the policy, which does not tell of it.
fn follow_shift(hub: Hub, reference: PolicyRef) -> tokio::sync::watch::Receiver<Option<Shift>> {
    let (sender, receiver) = tokio::sync::watch::channel(None);
    tokio::spawn(async move {
        let mut again = interval(SHIFT_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !sender.is_closed() {
            again.tick().await;
            sender.send_replace(hub.peek_shift(&reference).await.ok().flatten());
        }
    });
    receiver
}

/// How a watch is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// The page, redrawn in place.
    Page,
    /// A line with the time for each change.
    Lines,
    /// A JSON object for each event.
    Json,
}

/// One event for `-o json`.
#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    event: Event,
    policy: Option<&'a Policy>,
}

/// Goes on until it is interrupted or the policy is gone. `--timeout` bounds only the first connection.
async fn watch(context: &Context, reference: &PolicyRef) -> Result<(), Failure> {
    let view = match context.output.format {
        Format::Json | Format::Jsonl => View::Json,
        Format::Table if on_terminal() => View::Page,
        Format::Table => View::Lines,
        Format::Yaml => {
            let why = "-o yaml is one document, a watch has no end";
            return Err(Failure::usage("cannot watch", why, "use -o json for one object per line"));
        }
    };
    let hub = context.hub(false)?;
    let mut watch = hub.watch(reference);
    let shift = (view == View::Page).then(|| follow_shift(hub.clone(), reference.clone()));
    let mut state = Watched { context, reference, view, last: None, shift, pictured: false, lost: None };
    let first = Instant::now() + context.call_timeout();
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connected = false;
    loop {
        tokio::select! {
            news = watch.next() => {
                let news = news?;
                connected |= matches!(news, News::Opened);
                if state.take(news)? { return Ok(()); }
            }
            _ = redraw.tick(), if view == View::Page => {}
            () = sleep_until(first), if !connected => {
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!("cannot watch {reference}"),
                    state.lost.unwrap_or_else(|| "the hub does not answer".into()),
                    "see that the hub runs and that --hub is right, then try again",
                ));
            }
        }
        state.draw()?;
    }
}

struct Watched<'a> {
    context: &'a Context,
    reference: &'a PolicyRef,
    view: View,
    last: Option<Policy>,
    /// For the page.
    shift: Option<tokio::sync::watch::Receiver<Option<Shift>>>,
    /// Whether the policy was in the picture since the stream was opened.
    pictured: bool,
    lost: Option<String>,
}

impl Watched<'_> {
    /// Takes one piece of news; true when the watch is over.
    fn take(&mut self, news: News) -> Result<bool, Failure> {
        match news {
            News::Opened => {
                if self.lost.take().is_some() {
                    self.aside("the hub answers again");
                }
                self.pictured = false;
            }
            News::Lost(why) => {
                if self.lost.is_none() {
                    self.aside(&format!("lost the hub, trying again: {why}"));
                }
                self.lost = Some(why);
            }
            News::Synced if self.pictured => {
                if self.view == View::Json {
                    json_line(&Line { at: now(), event: Event::Synced, policy: None })?;
                }
            }
            News::Synced | News::NotFound => return self.gone(None),
            News::Policy(Event::Deleted, policy) => return self.gone(Some(*policy)),
            News::Policy(event, policy) => self.seen(event, *policy)?,
        }
        Ok(false)
    }

    fn seen(&mut self, event: Event, policy: Policy) -> Result<(), Failure> {
        self.pictured = true;
        match self.view {
            View::Json => json_line(&Line { at: now(), event, policy: Some(&policy) })?,
            View::Lines => {
                for line in changes(self.last.as_ref(), &policy) {
                    write(&stamped(now(), &line))?;
                }
            }
            View::Page => {}
        }
        self.last = Some(policy);
        Ok(())
    }

    fn gone(&mut self, policy: Option<Policy>) -> Result<bool, Failure> {
        if self.last.is_none() && policy.is_none() {
            let what = format!("cannot watch {}", self.reference);
            let remedy = "look for the right name with `yardctl get policies`";
            return Err(Failure::new(Exit::NotFound, what, "there is no such policy", remedy));
        }
        match self.view {
            View::Json => {
                let policy = policy.as_ref().or(self.last.as_ref());
                json_line(&Line { at: now(), event: Event::Deleted, policy })?;
            }
            View::Lines | View::Page => write(&stamped(now(), &format!("{} was deleted", self.reference)))?,
        }
        Ok(true)
    }

    /// News about the connection goes to stderr, where it cannot spoil the output; the page has its own line for it.
    fn aside(&self, line: &str) {
        if self.view != View::Page {
            progress(line);
        }
    }

    /// Draws the page over the old one: home, each line cleared to its end, the rest of the screen cleared. Lines are
    /// cut at the edge instead of wrapped (mode 7), and the page to the height, or it would scroll with every draw.
    fn draw(&self) -> Result<(), Failure> {
        if self.view != View::Page {
            return Ok(());
        }
        let paint = self.context.output.paint;
        let shift = self.shift.as_ref().and_then(|shift| shift.borrow().clone());
        let page = render::live(self.reference, self.last.as_ref(), shift.as_ref(), self.lost.as_deref(), paint, now());
        let page = render::fit(&page, terminal_rows());
        write(&format!("\u{1b}[?7l\u{1b}[H{}\u{1b}[J\u{1b}[?7h", page.replace('\n', "\u{1b}[K\n")))
    }
}
