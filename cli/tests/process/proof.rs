//! How a caller proves who he is, as a process: what is sent, where a token never shows, and what becomes of a hub that refuses.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use switchyard_proto::api::v1 as pb;
use tonic::Status;

use crate::support::{
    Answer, Hub, Queue, Ran, SHIFT, Script, ShiftBeat, beat, command, policy, queue, shift, yardctl_with,
};

const TOKEN: &str = "sys_q7Hs2LmX0aBc_bm9ib2R5LXNlZXMtdGhpcw";
const NEXT: &str = "sys_q7Hs2LmX0aBc_YW5vdGhlci1vbmU";

fn refused(status: Status) -> Answer<pb::GetPolicyResponse> {
    Answer::Refuse(status)
}

fn found() -> Answer<pb::GetPolicyResponse> {
    Answer::Ok(pb::GetPolicyResponse { policy: Some(policy(7, 3)) })
}

async fn gets(get: Queue<pb::GetPolicyResponse>) -> Hub {
    Hub::start(Script { get, ..Script::default() }).await
}

/// A status that asks for a pause.
fn later(seconds: &str) -> Status {
    let mut status = Status::resource_exhausted("token:ci reads more than 50 times a second");
    status.metadata_mut().insert("retry-after", seconds.parse().unwrap());
    status
}

/// A command with the token in its environment; its output as text.
async fn with_variable(hub: &Hub, line: &str, token: &str) -> (i32, String) {
    let mut command = command(&format!("--hub {} {line}", hub.url));
    let output = command.env("SWITCHYARD_TOKEN", token).output().await.unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn a_token_is_sent_once_with_every_call_and_shows_in_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, format!("{TOKEN}\n")).unwrap();
    for format in ["table", "json", "yaml"] {
        let denied = || refused(Status::permission_denied("the role operator is needed"));
        let hub = gets(queue([found(), denied(), found(), denied()])).await;
        let line = format!("--token-file {} get policy shop/checkout -o {format}", path.display());
        for code in [0, 9] {
            let ran = hub.yardctl(&line).await;
            assert_eq!(ran.code, code, "{ran:?}");
            assert!(!ran.out.contains(TOKEN) && !ran.err.contains(TOKEN), "{ran:?}");
        }
        for code in [0, 9] {
            let (ended, text) = with_variable(&hub, &format!("get policy shop/checkout -o {format}"), TOKEN).await;
            assert!(ended == code && !text.contains(TOKEN), "{text}");
        }
        let proofs = hub.seen.proofs.lock().unwrap();
        assert_eq!(*proofs, vec![vec![format!("Bearer {TOKEN}")]; 4]);
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_what_is_no_token_is_a_usage_error() {
    let hub = gets(queue([found()])).await;
    assert_eq!(hub.yardctl("get policy shop/checkout").await.code, 0);
    assert_eq!(*hub.seen.proofs.lock().unwrap(), [Vec::<String>::new()]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    for content in ["", "two words", "line\nline"] {
        fs::write(&path, content).unwrap();
        let ran = hub.yardctl(&format!("--token-file {} whoami", path.display())).await;
        assert!(ran.code == 2 && ran.err.contains("holds no token"), "{ran:?}");
        assert!(content.is_empty() || !ran.err.contains(content), "{ran:?}");
    }
    let ran = hub.yardctl("--token-file /nowhere/token whoami").await;
    assert!(ran.code == 2 && ran.err.contains("/nowhere/token"), "{ran:?}");
    let (code, text) = with_variable(&hub, "--token-file x whoami", TOKEN).await;
    assert!(code == 2 && text.contains("unset SWITCHYARD_TOKEN") && !text.contains(TOKEN), "{text}");
    assert_eq!(hub.seen.proofs.lock().unwrap().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn a_token_from_a_pipe_is_read_once_and_sent_with_every_call() {
    let away = Status::unavailable("the hub restarts");
    let hub = gets(queue([refused(away), found()])).await;
    let yardctl = env!("CARGO_BIN_EXE_yardctl");
    let line = format!("'{yardctl}' --hub {} --token-file <(echo {TOKEN}) get policy shop/checkout", hub.url);
    let mut bash = tokio::process::Command::new("bash");
    bash.env_remove("SWITCHYARD_TOKEN").env_remove("SWITCHYARD_TOKEN_FILE").env_remove("SWITCHYARD_TLS_CA");
    let output = bash.args(["-c", &line]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(*hub.seen.proofs.lock().unwrap(), bearers(&[TOKEN, TOKEN]));
}

#[tokio::test]
async fn a_token_never_leaves_this_machine_in_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, TOKEN).unwrap();
    let line = format!("--hub http://192.0.2.1:7400 --token-file {} whoami", path.display());
    let ran = yardctl_with(&line, "").await;
    assert!(ran.code == 2 && ran.err.contains("http:// is allowed only to this machine"), "{ran:?}");
}

#[tokio::test]
async fn who_is_not_proved_or_may_not_gets_the_hubs_words_and_what_to_do() {
    for (status, remedy) in [
        (Status::unauthenticated("the token has ended"), "--token-file"),
        (Status::permission_denied("the role operator over shop is needed"), "yardctl whoami"),
    ] {
        let words = status.message().to_owned();
        let hub = gets(queue([refused(status)])).await;
        let ran = hub.yardctl("get policy shop/checkout -o json").await;
        assert_eq!((ran.code, ran.json()["error"]["kind"].as_str()), (9, Some("denied")), "{ran:?}");
        assert!(ran.err.contains(&words) && ran.err.contains(remedy), "{ran:?}");
    }
}

#[tokio::test]
async fn a_hub_that_asks_for_a_pause_gets_it_and_the_same_call_again() {
    let hub = gets(queue([refused(later("1")), found()])).await;
    let begun = Instant::now();
    let ran = hub.yardctl("get policy shop/checkout").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(ran.err.contains("wants to be asked again in 1s"), "{ran:?}");
    assert_eq!(hub.seen.proofs.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_pause_that_is_longer_than_the_timeout_is_not_waited_for() {
    let hub = gets(queue([refused(later("3600")), found()])).await;
    let ran = hub.yardctl("get policy shop/checkout").await;
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.contains("wait 3600s, ask less often") && ran.err.contains("50 times a second"), "{ran:?}");
    // A hub that names no time has said no: a message that is too large stays so.
    for status in [Status::resource_exhausted("too large"), later("soon")] {
        let hub = gets(queue([refused(status), found()])).await;
        assert_eq!(hub.yardctl("get policy shop/checkout").await.code, 6);
        assert_eq!(hub.seen.proofs.lock().unwrap().len(), 1);
    }
}

/// Refused because the token ended, at the moment at which the next one is put into its file.
fn ended_as_renewed<T>(path: &Path) -> Answer<T> {
    let path = path.to_owned();
    Answer::RefuseAfter(
        Box::new(move || fs::write(path, NEXT).unwrap()),
        Status::unauthenticated("the token has ended"),
    )
}

fn running() -> ShiftBeat {
    beat(shift(3, pb::ShiftState::Baking, 1, "Baking"))
}

/// `watch SHIFT` with a token file.
async fn watched(hub: &Hub, path: &Path) -> Ran {
    fs::write(path, TOKEN).unwrap();
    let ran = hub.yardctl(&format!("--token-file {} watch {SHIFT}", path.display())).await;
    for token in [TOKEN, NEXT] {
        assert!(!ran.out.contains(token) && !ran.err.contains(token), "{ran:?}");
    }
    ran
}

fn bearers(tokens: &[&str]) -> Vec<Vec<String>> {
    tokens.iter().map(|token| vec![format!("Bearer {token}")]).collect()
}

#[tokio::test]
async fn a_watch_whose_token_was_revoked_ends() {
    let folder = tempfile::tempdir().unwrap();
    let revoked = Status::unauthenticated("service token ci was revoked");
    let beats = vec![running(), ShiftBeat::Break(revoked)];
    let hub = Hub::start(Script { watch_shift: queue([Answer::Ok(beats)]), ..Script::default() }).await;
    let ran = watched(&hub, &folder.path().join("token")).await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.err.contains("service token ci was revoked"), "{ran:?}");
    assert_eq!(*hub.seen.proofs.lock().unwrap(), bearers(&[TOKEN]), "the same token is not tried again");
}

#[tokio::test]
async fn a_watch_whose_token_ended_goes_on_with_the_new_one_of_the_file_and_tries_that_one_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let away = || Answer::Ok(vec![running(), ShiftBeat::Break(Status::unavailable("the hub restarts"))]);
    let done = Answer::Ok(vec![beat(shift(5, pb::ShiftState::Succeeded, 2, "Converged"))]);
    let script = Script { watch_shift: queue([away(), ended_as_renewed(&path), done]), ..Script::default() };
    let hub = Hub::start(script).await;
    let ran = watched(&hub, &path).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(*hub.seen.proofs.lock().unwrap(), bearers(&[TOKEN, TOKEN, NEXT]));

    let still = Answer::Refuse(Status::unauthenticated("the token has ended"));
    let script = Script { watch_shift: queue([away(), ended_as_renewed(&path), still]), ..Script::default() };
    let hub = Hub::start(script).await;
    let ran = watched(&hub, &path).await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert_eq!(*hub.seen.proofs.lock().unwrap(), bearers(&[TOKEN, TOKEN, NEXT]));
}

#[tokio::test]
async fn a_call_that_the_token_ended_under_is_made_again_with_the_new_one_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, TOKEN).unwrap();
    let hub = gets(queue([ended_as_renewed(&path), found()])).await;
    let ran = hub.yardctl(&format!("--token-file {} get policy shop/checkout", path.display())).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(*hub.seen.proofs.lock().unwrap(), bearers(&[TOKEN, NEXT]));
}

#[tokio::test]
async fn a_pause_that_the_hub_asks_of_a_watch_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let done = Answer::Ok(vec![beat(shift(5, pb::ShiftState::Succeeded, 2, "Converged"))]);
    let script = Script { watch_shift: queue([Answer::Refuse(later("1")), done]), ..Script::default() };
    let hub = Hub::start(script).await;
    let begun = Instant::now();
    let ran = watched(&hub, &folder.path().join("token")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}
