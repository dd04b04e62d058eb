//! The way to a Postgres that speaks TLS: only a server that proves its name under the authority that was given is connected to, by
//! every connection of the store; and no refusal shows the password.

mod store_support;

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    time::Duration,
};

use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgConnectOptions};
use store_support::{apply, eventually, manifest};
use switchyard_hub::store::{EmbeddedOptions, EmbeddedPostgres, Notice, Store, StoreError, StoreOptions};

const PASSWORD: &str = "Correct-Horse";

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A Postgres on a port of this machine, with a password, and for the test itself on its socket.
struct Server {
    folder: tempfile::TempDir,
    /// Ends the server when its standard input ends, so also when the test is killed.
    keeper: Child,
    port: u16,
    raw: PgPool,
}

impl Server {
    /// Its certificate is for localhost, of this authority.
    async fn start(authority: &CertifiedIssuer<'static, KeyPair>) -> Self {
        let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
        let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions { fsync: false }).await.unwrap();
        let (url, program) = (postgres.url(), fs::read_link(format!("/proc/{}/exe", postgres.pid())).unwrap());
        let raw = PgPool::connect(&url).await.unwrap();
        let password = format!("alter role switchyard password '{PASSWORD}'");
        sqlx::query(AssertSqlSafe(password)).execute(&raw).await.unwrap();
        raw.close().await;
        postgres.stop().await.unwrap();

        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        let pgdata = folder.path().join("pgdata");
        write(&pgdata, "server.crt", &leaf.pem());
        write(&pgdata, "server.key", &key.serialize_pem());
        write(&pgdata, "pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
        let options = PgConnectOptions::from_str(&url).unwrap();
        let socket = options.get_socket().unwrap();
        // Somebody may take the port between the look and the start.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut keeper = keep(&program, &pgdata, socket, port);
            let raw = PgPool::connect_lazy_with(options.clone().port(port));
            let answers = eventually("the server", async || {
                let ended = keeper.try_wait().unwrap().is_some();
                let answers = sqlx::query("select 1").execute(&raw).await.is_ok();
                (ended || answers).then_some(answers)
            });
            if answers.await {
                return Self { folder, keeper, port, raw };
            }
        }
        panic!("no port was free");
    }

    async fn set(&self, name: &str, value: &str) {
        for statement in [format!("alter system set {name} = '{value}'"), "select pg_reload_conf()".to_owned()] {
            sqlx::query(AssertSqlSafe(statement)).execute(&self.raw).await.unwrap();
        }
        eventually("the setting", async || {
            let read = sqlx::query_scalar::<_, String>(AssertSqlSafe(format!("show {name}")));
            (read.fetch_one(&self.raw).await.unwrap() == value).then_some(())
        })
        .await;
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn url(&self, host: &str, root: &Path) -> String {
        let root = root.display();
        format!(
            "postgres://switchyard:{PASSWORD}@{host}:{}/switchyard?sslmode=verify-full&sslrootcert={root}",
            self.port
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().unwrap();
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let (path, owner) = (folder.join(name), fs::metadata(folder).unwrap());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

fn keep(program: &Path, pgdata: &Path, socket: &Path, port: u16) -> Child {
    // A shell gives what it leaves in the background no standard input, so the line comes through another descriptor.
    let script = "exec 3<&0; \"$@\" </dev/null >postgres.log 2>&1 3<&- & server=$!; \
                  { read line <&3; kill -INT $server; } & wait $server; kill $! 2>/dev/null; exit 0";
    let owner = fs::metadata(pgdata).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(program).arg("-D").arg(pgdata).arg("-k").arg(socket);
    let settings = ["listen_addresses=127.0.0.1", "ssl=on", "fsync=off", "logging_collector=off"];
    // In the file, so that it can be changed; on the command line it could not.
    fs::write(pgdata.join("postgresql.auto.conf"), settings.map(|one| one.replace('=', " = '") + "'\n").concat())
        .unwrap();
    command.args(["-p", &port.to_string()]).current_dir(pgdata).stdin(Stdio::piped());
    command.uid(owner.uid()).gid(owner.gid()).process_group(0).spawn().unwrap()
}

async fn refused(what: &str, url: &str) -> StoreError {
    let error =
        Store::connect(url, StoreOptions { acquire_timeout: Duration::from_secs(20), ..StoreOptions::default() })
            .await
            .expect_err(what);
    let source: &dyn std::error::Error = &error;
    let chain: Vec<String> =
        std::iter::successors(Some(source), |error| error.source()).map(ToString::to_string).collect();
    assert!(!format!("{error:?} {chain:?}").contains(PASSWORD), "{what}: {chain:?}");
    assert!(error.is_of_tls(), "{what}: {chain:?}");
    error
}

#[tokio::test]
async fn every_connection_is_verified_and_a_server_that_proves_nothing_is_not_connected_to() {
    let (ours, other) = (authority(), authority());
    let server = Server::start(&ours).await;
    let (root, wrong) = (server.file("root.pem", &ours.pem()), server.file("wrong.pem", &other.pem()));

    let store = Store::connect(&server.url("localhost", &root), StoreOptions::default()).await.unwrap();
    let mut notices = Box::pin(store.listen().await.unwrap());
    apply(&store, &manifest("a", &[("blue", 1)])).await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), notices.next()).await.unwrap(), Some(Notice::Policies));
    store.access_version().await.unwrap();
    store.audit_page(&Default::default(), true, None, 10).await.unwrap();
    let read = "select count(*), count(*) filter (where ssl) from pg_stat_ssl join pg_stat_activity using (pid) \
                where application_name = 'switchyard-hub'";
    let (all, verified): (i64, i64) = sqlx::query_as(read).fetch_one(&server.raw).await.unwrap();
    assert!(all >= 4 && verified == all, "the listener's and one of each pool: {verified} of {all}");

    refused("another authority", &server.url("localhost", &wrong)).await;
    refused("another name", &server.url("127.0.0.1", &root)).await;
    let public = format!("postgres://switchyard:{PASSWORD}@localhost:{}/switchyard?sslmode=verify-full", server.port);
    refused("an authority that is no public one", &public).await;
    server.set("ssl", "off").await;
    let error = refused("a server without TLS", &server.url("localhost", &root)).await;
    assert!(error.is_unavailable(), "it may get it: {error:?}");
    // It is the server that is at fault, and not the test.
    let plain = format!("postgres://switchyard:{PASSWORD}@localhost:{}/switchyard?sslmode=disable", server.port);
    Store::connect(&plain, StoreOptions::default()).await.unwrap().ping().await.unwrap();
    server.set("ssl", "on").await;
    Store::connect(&server.url("localhost", &root), StoreOptions::default()).await.unwrap().ping().await.unwrap();
}
