//! The harness of the scenarios and the demo: the real programs as processes, the sandbox as their world, and waits that are
//! conditions with a deadline. Decides nothing about traffic and calls no code of the programs under test, except for the
//! private Postgres, which tests have to stop and start by themselves.

pub mod audit;
pub mod authority;
pub mod aws;
pub mod chaos;
pub mod client;
pub mod clock;
pub mod demo;
pub mod elb;
pub mod guard;
pub mod guarded;
pub mod hub;
pub mod issuer;
pub mod load;
pub mod loss_time;
pub mod losses;
pub mod member;
pub mod moto;
pub mod network;
pub mod nodes;
pub mod pair;
pub mod policy;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod proxy;
pub mod realkube;
pub mod recorder;
pub mod restored;
pub mod runner;
pub mod sandbox;
pub mod shifts;
pub mod source;
pub mod statistics;
pub mod undertaker;
pub mod wait;
pub mod watcher;
pub mod webhook;
pub mod world;
pub mod yardctl;
