//! The hub as it runs in production, tried as an attacker would: with the certificate of another agent, with tokens that somebody else
//! made, with rights for another namespace, with floods, with names that are statements. What he asks for is refused, said once, and
//! found in the audit log; what belongs to others stays as it was, and who is let in goes on being served.

mod agents;
mod floods;
mod names;
mod rights;
mod scene;
mod tokens;
mod unfinished;
mod wire;
mod words;
