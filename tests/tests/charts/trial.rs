//! The trial's Postgres and the hub meet each other's conditions: TLS with a certificate of an authority that is mounted, for the name
//! that the URL leads to.

use serde::Deserialize;
use serde_json::Value;

use super::read;

/// Objects of a kind in the rendered trial.
fn rendered(kind: &str) -> Value {
    let text = read("charts/switchyard-hub/rendered/trial.yaml");
    let documents = serde_norway::Deserializer::from_str(&text);
    let mut objects = documents.map(|one| Value::deserialize(one).expect("a document"));
    objects.find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("the trial has no {kind}"))
}

/// Where a volume of a Secret is mounted in the first container, with the names of its files.
fn files(pod: &Value, secret: &str) -> Vec<String> {
    let volumes = pod["volumes"].as_array().expect("volumes");
    let volume =
        volumes.iter().find(|volume| volume["secret"]["secretName"] == secret).expect("the Secret is a volume");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).expect("the volume is mounted");
    assert_eq!(volume["secret"]["defaultMode"], 0o440, "Postgres takes no key that others read");
    let items = volume["secret"]["items"].as_array().expect("items");
    let of = |item: &Value| format!("{}/{}", mount["mountPath"].as_str().unwrap(), item["path"].as_str().unwrap());
    items.iter().map(of).collect()
}

#[test]
fn the_hub_verifies_the_trials_postgres_and_both_have_the_files_for_it() {
    let values: Value = serde_norway::from_str(&read("charts/switchyard-hub/ci/trial-values.yaml")).expect("YAML");
    let secret = values["database"]["trial"]["tlsSecretName"].as_str().expect("a Secret");
    let hub = rendered("Deployment")["spec"]["template"]["spec"].take();
    let env = hub["containers"][0]["env"].as_array().expect("an environment");
    let url = env.iter().find(|one| one["name"] == "DATABASE_URL").expect("a URL")["value"].as_str().expect("text");
    let (place, query) = url.split_once('?').expect("parameters");
    let [authority] = <[String; 1]>::try_from(files(&hub, secret)).expect("the authority alone, never the key");
    assert_eq!(query, format!("sslmode=verify-full&sslrootcert={authority}"));

    let set = rendered("StatefulSet");
    let host = place.rsplit_once('@').expect("a user").1;
    assert_eq!(host, format!("{}:5432/switchyard", set["metadata"]["name"].as_str().expect("a name")));
    let postgres = &set["spec"]["template"]["spec"];
    assert_eq!(postgres["securityContext"]["fsGroup"], postgres["securityContext"]["runAsGroup"], "reads the key");
    let [certificate, key] = <[String; 2]>::try_from(files(postgres, secret)).expect("a pair");
    let arguments: Vec<&str> =
        postgres["containers"][0]["args"].as_array().expect("arguments").iter().filter_map(Value::as_str).collect();
    let wanted = ["-c", "ssl=on", "-c", &format!("ssl_cert_file={certificate}"), "-c", &format!("ssl_key_file={key}")];
    assert_eq!(arguments, wanted);
}
