//! The choice for one request: group, target and the cookies that go with them, taken under one lock of the state, so
//! that the choice and the count of outstanding requests belong together. What is chosen is decided in `select`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use rand::rngs::StdRng;

use super::{
    body::InFlight,
    select::{self, Moment},
    sticky::{self, Mark},
};
use crate::elb::{
    Inner,
    actions::Forward,
    lock,
    model::{Target, TargetGroup},
};

/// Where one request goes.
pub struct Pick {
    /// ARN.
    pub group: String,
    pub group_name: String,
    pub address: SocketAddr,
    pub in_flight: InFlight,
    /// Set on the answer.
    pub cookies: Vec<HeaderValue>,
    /// Set on the answer when that sets this cookie of the application.
    pub app_cookie: Option<(String, HeaderValue)>,
}

/// A group that has nothing to send a request to.
pub struct Empty {
    /// ARN.
    pub group: String,
    pub group_name: String,
}

/// The cookies of one request and the means to make new ones.
struct Cookies<'a> {
    key: u64,
    headers: &'a HeaderMap,
    now: jiff::Timestamp,
}

/// How a group keeps clients on a target.
struct TargetStickiness {
    cookie: &'static str,
    seconds: u64,
    /// The cookie of the application that starts it; None when the load balancer starts it by itself.
    app_cookie: Option<String>,
}

/// Err names the group that has nothing to send to, if a group was chosen at all.
pub fn pick(inner: &Inner, forward: &Forward, headers: &HeaderMap) -> Result<Pick, Option<Empty>> {
    let cookies = Cookies { key: inner.plane.cookie_key, headers, now: jiff::Timestamp::now() };
    let world = inner.world();
    let mut rng = lock(&inner.plane.rng);
    let mark = forward.stickiness_s.and_then(|_| cookies.read(sticky::GROUP_COOKIE));
    let sticks = |arn: &str| mark.as_ref().is_some_and(|m| m.is(cookies.key, arn));
    let arn = select::choose_group(forward, sticks, &mut rng).ok_or(None)?;
    // A group that was deleted while this node still knows it is as good as empty.
    let empty = |name: &str| Some(Empty { group: arn.to_owned(), group_name: name.to_owned() });
    let group = world.groups.get(arn).ok_or_else(|| empty(arn))?;
    let stickiness = TargetStickiness::of(group);
    let mark = stickiness.as_ref().and_then(|s| cookies.read(s.cookie));
    let target =
        choose_target(inner, group, &mut rng, |t| mark.as_ref().is_some_and(|m| m.is(cookies.key, &name_of(group, t))));
    let target = target.ok_or_else(|| empty(&group.name))?;
    let by_group = forward.stickiness_s.and_then(|seconds| cookies.make(sticky::GROUP_COOKIE, arn, seconds.into()));
    let by_target = stickiness.as_ref().and_then(|s| cookies.make(s.cookie, &name_of(group, target), s.seconds));
    let (now_set, app_cookie) = match (by_target, stickiness.and_then(|s| s.app_cookie)) {
        (Some(value), Some(app)) => (None, Some((app, value))),
        (value, _) => (value, None),
    };
    Ok(Pick {
        group: arn.to_owned(),
        group_name: group.name.clone(),
        address: target.address,
        in_flight: InFlight::start(&target.live),
        cookies: by_group.into_iter().chain(now_set).collect(),
        app_cookie,
    })
}

fn choose_target<'a>(
    inner: &Inner,
    group: &'a TargetGroup,
    rng: &mut StdRng,
    sticks: impl Fn(&Target) -> bool,
) -> Option<&'a Target> {
    let turn = {
        let mut turns = lock(&inner.plane.turns);
        let turn = turns.entry(group.arn.clone()).or_default();
        *turn = turn.wrapping_add(1);
        *turn
    };
    let slow_start = Duration::from_secs(group.attribute_number("slow_start.duration_seconds"));
    let moment = Moment { turn, now: Instant::now(), slow_start: inner.config.scaled(slow_start), rng };
    select::choose_target(group, sticks, moment)
}

/// What a target cookie names: the same address in another group is another target.
fn name_of(group: &TargetGroup, target: &Target) -> String {
    format!("{}|{}", group.arn, target.address)
}

impl Cookies<'_> {
    fn read(&self, cookie: &str) -> Option<Mark> {
        sticky::read(self.key, self.headers, cookie, self.now.as_second())
    }

    fn make(&self, cookie: &str, name: &str, seconds: u64) -> Option<HeaderValue> {
        sticky::set_cookie(self.key, cookie, name, self.now, seconds)
    }
}

impl TargetStickiness {
    fn of(group: &TargetGroup) -> Option<Self> {
        if group.attribute("stickiness.enabled") != "true" {
            return None;
        }
        if group.attribute("stickiness.type") == "app_cookie" {
            return Some(Self {
                cookie: sticky::APP_COOKIE,
                seconds: group.attribute_number("stickiness.app_cookie.duration_seconds"),
                app_cookie: Some(group.attribute("stickiness.app_cookie.cookie_name").to_owned()),
            });
        }
        let seconds = group.attribute_number("stickiness.lb_cookie.duration_seconds");
        Some(Self { cookie: sticky::TARGET_COOKIE, seconds, app_cookie: None })
    }
}
