//! The first answer to each request id, so that a caller whose connection broke may ask again without doing it twice (I11). The
//! answer is kept in the transaction that made the change, behind the policies' lock: of equal requests at once one works, the
//! others read its answer. Each caller has ids of his own: nobody uses up those of another, or gets what another was answered.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::types::Json;

use super::{
    Store,
    error::{Query, StoreError},
    policy_change::Caller,
    values::{Conn, from_json, to_json},
};

/// Why there is no telling whether a request was answered before.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The request id was used for something else.
    #[error("request id {request_id:?} was used for another {method} request")]
    Reused { request_id: String, method: String },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a request asks for, to tell a repetition from another request under the same id.
pub(super) struct Request<'a> {
    /// As the caller gave it.
    pub id: &'a str,
    /// As it is stored.
    pub key: String,
    pub method: &'static str,
    fingerprint: [u8; 32],
}

/// What stands in the store for the request of a caller: the beginning of its id, for people, and the hash of caller and id.
pub(super) fn key(actor: &str, id: &str) -> String {
    const SHOWN: usize = 40;
    let mut hash = Sha256::new();
    hash.update(actor.as_bytes());
    hash.update([0]);
    hash.update(id.as_bytes());
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let shown: String = id.chars().take(SHOWN).collect();
    format!("{shown} {digits}")
}

impl<'a> Request<'a> {
    /// `content` is all that decides about the effect.
    pub fn new(caller: &'a Caller, method: &'static str, content: &impl Serialize) -> Result<Self, StoreError> {
        let content = to_json("a request", content)?;
        let mut hash = Sha256::new();
        hash.update(method.as_bytes());
        hash.update([0]);
        hash.update(content.0.to_string().as_bytes());
        let (id, key) = (caller.request_id.as_str(), key(&caller.actor, &caller.request_id));
        Ok(Self { id, key, method, fingerprint: hash.finalize().into() })
    }

    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl Store {
    /// The first answer, when there was one.
    pub(super) async fn first_answer<T: DeserializeOwned>(
        &self,
        conn: &mut Conn,
        request: &Request<'_>,
    ) -> Result<Option<T>, AnswerError> {
        let read = "select method, fingerprint, response from idempotency where request_id = $1";
        let read = sqlx::query_as::<_, (String, Vec<u8>, Json<Value>)>(read).bind(&request.key);
        let Some((method, fingerprint, response)) = self.run(Query::IdempotencyGet, read.fetch_optional(conn)).await?
        else {
            return Ok(None);
        };
        if method != request.method || fingerprint != request.fingerprint {
            return Err(AnswerError::Reused { request_id: request.id.to_owned(), method });
        }
        Ok(Some(from_json("the first answer to a request", response)?))
    }

    /// Keeps the answer.
    pub(super) async fn keep_answer(
        &self,
        conn: &mut Conn,
        request: &Request<'_>,
        answer: &impl Serialize,
    ) -> Result<(), StoreError> {
        let insert = "insert into idempotency (request_id, method, fingerprint, response) values ($1, $2, $3, $4)";
        let insert = sqlx::query(insert)
            .bind(&request.key)
            .bind(request.method)
            .bind(request.fingerprint.as_slice())
            .bind(to_json("an answer", answer)?);
        self.run(Query::IdempotencyPut, insert.execute(conn)).await.map(|_| ())
    }
}
