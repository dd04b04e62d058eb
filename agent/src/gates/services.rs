//! The selectors of the Services of watched namespaces, for the webhook. Pure.

use std::collections::BTreeMap;

use crate::index::{
    objects::{Object, SourceEvent, SourceKind, SourceRun},
    store::Store,
};

/// Labels that a pod must have.
pub type Selector = BTreeMap<String, String>;

/// Selectors by namespace and Service.
#[derive(Debug, Default)]
pub struct Services(BTreeMap<String, (u64, Store<Selector>)>);

impl Services {
    /// The watches are these from now on.
    pub fn route(&mut self, wanted: &[SourceRun]) {
        let of_services = || wanted.iter().filter(|run| run.source.kind == SourceKind::Service);
        self.0.retain(|namespace, (run, _)| {
            of_services().any(|wanted| wanted.source.namespace == *namespace && wanted.run == *run)
        });
        for run in of_services() {
            self.0.entry(run.source.namespace.clone()).or_insert_with(|| (run.run, Store::default()));
        }
    }

    /// Takes in what a watch says. True when a selector may be another than before.
    pub fn handle(&mut self, from: &SourceRun, event: SourceEvent) -> bool {
        let Some((run, store)) = self.0.get_mut(&from.source.namespace) else { return false };
        if from.source.kind != SourceKind::Service || *run != from.run {
            return false;
        }
        match event {
            SourceEvent::ListStarted => store.list_started(),
            SourceEvent::Listed(Object::Service(service)) => store.listed(service.name, service.selector),
            SourceEvent::ListDone => return store.list_done().is_some(),
            SourceEvent::Applied(Object::Service(service)) => {
                let _ = store.applied(service.name, service.selector);
                return true;
            }
            SourceEvent::Deleted(Object::Service(service)) => return store.deleted(&service.name).is_some(),
            SourceEvent::Failing(message) => store.failing(message),
            SourceEvent::Listed(_) | SourceEvent::Applied(_) | SourceEvent::Deleted(_) | SourceEvent::Following => {}
        }
        false
    }

    /// The selector of a Service; None when it is not known, or selects nothing.
    #[must_use]
    pub fn selector(&self, namespace: &str, name: &str) -> Option<&Selector> {
        let (_, store) = self.0.get(namespace)?;
        store.get(name).filter(|selector| !selector.is_empty())
    }
}
