//! Kills the embedded bucket's process under load: what it acknowledged is there again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use celeriant_storage::bucket::embedded::{EmbeddedBucket, Faults, Settings};
use celeriant_storage::bucket::s3::S3Bucket;
use celeriant_storage::bucket::{Bucket, Done, Request};

use super::contract::{complete, found, put_if_absent};
use super::sites::{ACCESS_KEY, SECRET_KEY, client_settings};

/// Names the directory to a child of this test.
const DIR_VARIABLE: &str = "CELERIANT_TEST_BUCKET_DIR";
const CHILD_TEST: &str = "bucket::durable::a_child_serves_until_it_is_killed";
const ANNOUNCEMENT: &str = "bucket at ";

/// Does nothing unless it is the child of the test below.
#[test]
fn a_child_serves_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let settings = Settings::new(dir, "contract", ACCESS_KEY, SECRET_KEY);
    let server = EmbeddedBucket::start(settings, Faults::default()).expect("starts");
    println!("{ANNOUNCEMENT}{}", server.endpoint());
    // The parent keeps this pipe open; should it die, so does this.
    let _ = std::io::stdin().read_line(&mut String::new());
}

struct Served {
    child: Child,
    endpoint: String,
}

impl Served {
    fn start(dir: &Path) -> Self {
        let program = std::env::current_exe().expect("this test's program");
        let mut child = Command::new(program)
            .args(["--exact", CHILD_TEST, "--nocapture"])
            .env(DIR_VARIABLE, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let endpoint = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once(ANNOUNCEMENT).map(|(_, rest)| rest.to_owned()))
            .expect("it says where it listens");
        Self { child, endpoint }
    }

    fn kill(mut self) {
        self.child.kill().expect("can be killed");
        self.child.wait().expect("ends");
    }
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_by_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for round in 0..8_u32 {
        let served = Served::start(dir.path());
        let settings = client_settings(served.endpoint.clone());
        let mut bucket = S3Bucket::open(settings).expect("opens");
        for (key, body) in &acknowledged {
            let there = found(&mut bucket, key).await.map(|(_, body)| body);
            assert_eq!(there.as_deref(), Some(&body[..]), "{key} after round {round}");
        }
        let mut served = Some(served);
        let mut sent: BTreeMap<u64, (String, Vec<u8>)> = BTreeMap::new();
        for token in 0..8 {
            start(&mut bucket, &mut sent, round, token);
        }
        let (mut next, mut ended) = (8, 0);
        while ended < next {
            let done = complete(std::slice::from_mut(&mut bucket), 1).await;
            for ((_, token), outcome) in done {
                ended += 1;
                let (key, body) = sent.remove(&token).expect("was sent");
                if let Ok(Done::Put { .. }) = outcome {
                    acknowledged.insert(key, body);
                }
            }
            if ended > 20 + u64::from(round) * 3
                && let Some(served) = served.take()
            {
                served.kill();
            }
            if served.is_some() {
                start(&mut bucket, &mut sent, round, next);
                next += 1;
            }
        }
    }
    assert!(acknowledged.len() >= 8 * 15, "{} puts were acknowledged", acknowledged.len());
}

fn start(
    bucket: &mut S3Bucket,
    sent: &mut BTreeMap<u64, (String, Vec<u8>)>,
    round: u32,
    token: u64,
) {
    let key = format!("kill/{round}/{token}");
    let body = vec![token as u8; 1_000 + 10_000 * (token as usize % 7)];
    sent.insert(token, (key.clone(), body.clone()));
    bucket.start(token, Request::data(put_if_absent(&key, body), Duration::from_secs(20)));
}
