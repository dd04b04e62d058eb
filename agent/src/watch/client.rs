//! A Kubernetes client that tells when the API server accepted a watch.
//!
//! kube's watcher is silent when it picks a broken watch up again and nothing has changed since, so in a quiet namespace an error
//! would never be seen to end. The answer to the watch request is that evidence, and this is the one place where it passes.

use std::future::Future;

use kube::{Client, client::Body};

/// Wraps `client`: `on_watch` is awaited after each watch request that was answered with success, before its first event.
pub fn observed<F, Fut>(client: Client, on_watch: F) -> Client
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        let on_watch = on_watch.clone();
        async move {
            let is_watch = request.uri().query().is_some_and(asks_to_watch);
            let response = client.send(request).await?;
            if is_watch && response.status().is_success() {
                on_watch().await;
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, namespace)
}

fn asks_to_watch(query: &str) -> bool {
    query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_from_a_list_by_its_query() {
        assert!(asks_to_watch("watch=true&timeoutSeconds=60"));
        assert!(asks_to_watch("&watch=true"));
        assert!(!asks_to_watch("limit=500"));
        assert!(!asks_to_watch("fieldSelector=watch%3Dtrue"));
    }
}
