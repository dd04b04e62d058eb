//! Tests of what watchers of clusters are told.

use switchyard_core::{
    access::{Grant, Role, Span},
    inventory::{Cluster, Inventory, Link},
};
use uuid::Uuid;

use super::*;
use crate::store::ClusterInfo;

fn name(name: &str) -> ClusterName {
    name.parse().unwrap()
}

/// Clusters with their links, heard of at this second.
fn picture(clusters: &[(&str, Link)], heard_at: i64) -> Picture {
    let mut inventory = Inventory::default();
    let mut infos = BTreeMap::new();
    for (cluster, link) in clusters {
        let announced = Cluster {
            name: name(cluster),
            region: "eu-central-1".to_owned(),
            vpc_id: "vpc-1".parse().unwrap(),
            link: *link,
            session_since: None,
            problems: Vec::new(),
            reports_nodes: true,
        };
        inventory.clusters.insert(name(cluster), announced);
        let info = ClusterInfo {
            agent_version: "1".to_owned(),
            last_seen: Some(jiff::Timestamp::from_second(heard_at).unwrap()),
            session_id: Some(Uuid::nil()),
            hub_instance: None,
            complete_in_epoch: None,
            policies_failing: None,
        };
        infos.insert(name(cluster), info);
    }
    let (inventory, clusters) = (Arc::new(inventory), Arc::new(infos));
    Picture { inventory, clusters, loaded: true, ..Picture::empty() }
}

fn of(only: Option<&str>) -> Filter {
    Filter { only: only.map(name), seen: Grants::everything() }
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.cluster.as_ref().unwrap().name.as_str()).collect()
}

#[test]
fn a_heartbeat_is_no_news_and_a_lost_link_is() {
    let mut told = Told::default();
    let both = [("blue", Link::Connected), ("green", Link::Connected)];
    assert_eq!(names(&told.difference(&picture(&both, 1), &of(None))), ["blue", "green"]);
    assert_eq!(told.difference(&picture(&both, 2), &of(None)), []);
    let lost = [("blue", Link::Connected), ("green", Link::Stale)];
    let news = told.difference(&picture(&lost, 3), &of(None));
    assert_eq!(names(&news), ["green"]);
    let green = news[0].cluster.as_ref().unwrap();
    assert_eq!(green.link(), proto::ClusterLink::Stale);
    assert_eq!(green.last_seen.unwrap().seconds, 3, "as of the news");
}

#[test]
fn a_cluster_that_was_forgotten_is_news_when_it_returns() {
    let mut told = Told::default();
    told.difference(&picture(&[("blue", Link::Stale)], 1), &of(None));
    assert_eq!(told.difference(&picture(&[], 2), &of(None)), []);
    assert_eq!(names(&told.difference(&picture(&[("blue", Link::Stale)], 3), &of(None))), ["blue"]);
}

#[test]
fn a_watch_of_one_hears_of_it_before_it_was_seen_and_of_no_other() {
    let mut told = Told::default();
    let only = of(Some("blue"));
    let first = told.difference(&picture(&[("green", Link::Connected)], 1), &only);
    assert_eq!(names(&first), ["blue"]);
    assert_eq!(first[0].cluster.as_ref().unwrap().link(), proto::ClusterLink::Unknown);
    let both = [("blue", Link::Syncing), ("green", Link::Stale)];
    assert_eq!(names(&told.difference(&picture(&both, 2), &only)), ["blue"]);
    assert_eq!(told.difference(&picture(&both, 3), &only), []);
}

#[test]
fn a_watcher_hears_of_the_clusters_that_it_may_read_and_of_no_other() {
    let mut told = Told::default();
    let clusters = Span::Only([name("green")].into());
    let grant = Grant { role: Role::Viewer, namespaces: Span::All, clusters, overrides: false };
    let filter = Filter { only: None, seen: Grants(vec![grant]) };
    let both = [("blue", Link::Connected), ("green", Link::Connected)];
    assert_eq!(names(&told.difference(&picture(&both, 1), &filter)), ["green"]);
    let lost = [("blue", Link::Stale), ("green", Link::Connected)];
    assert_eq!(told.difference(&picture(&lost, 2), &filter), []);
}
