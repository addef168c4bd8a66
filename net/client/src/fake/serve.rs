//! One connection to a fake node.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use celeriant_schema::wire::{self, Inbound};
use celeriant_schema::{ClusterId, Credential, FeedQuery, Following, Refusal, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Script, Verdict};

/// A follower that waits for a stamp looks again this often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

struct Serving {
    script: Arc<Mutex<Script>>,
    shown: Option<Credential>,
    output: BytesMut,
    answers: mpsc::UnboundedSender<(u64, Response)>,
    late: JoinSet<()>,
}

/// Serves one client until either side ends it.
pub(super) async fn serve<S: AsyncRead + AsyncWrite>(stream: S, script: Arc<Mutex<Script>>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (answers, mut ready) = mpsc::unbounded_channel();
    let (output, late) = (BytesMut::new(), JoinSet::new());
    let mut serving = Serving { script, shown: None, output, answers, late };
    let mut input = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            Some((id, response)) = ready.recv() => {
                wire::encode_response(id, &response, &mut serving.output);
                None
            }
            read = reader.read_buf(&mut input) => Some(read.unwrap_or(0)),
        };
        if read == Some(0) {
            return;
        }
        serving.wait_while_hanging().await;
        let slow = serving.script.lock().expect("not poisoned").slow;
        if let Some(pause) = slow {
            sleep(pause).await;
        }
        while let Some(frame) = wire::split_frame(&mut input, 1 << 24).expect("small") {
            let inbound = wire::decode_inbound(frame).expect("a client sends what makes sense");
            if !serving.take(inbound) {
                // What was said last is said, if there is anybody.
                let _ = writer.write_all(&serving.output).await;
                return;
            }
        }
        if writer.write_all(&serving.output).await.is_err() {
            return;
        }
        serving.output.clear();
    }
}

impl Serving {
    async fn wait_while_hanging(&self) {
        loop {
            let goes_on = Arc::clone(&self.script.lock().expect("not poisoned").goes_on);
            let mut notified = pin!(goes_on.notified());
            notified.as_mut().enable();
            if !self.script.lock().expect("not poisoned").hangs {
                return;
            }
            notified.await;
        }
    }

    /// `false`: the connection breaks.
    fn take(&mut self, inbound: Inbound) -> bool {
        let mut script = self.script.lock().expect("not poisoned");
        match inbound {
            Inbound::Hello(hello) => {
                self.shown = hello.api_key;
                script.hellos += 1;
                if !script.takes(self.shown.as_ref()) {
                    wire::encode_refused(0, &unauthenticated(), &mut self.output);
                    return false;
                }
                welcome(&script, &mut self.output);
            }
            Inbound::Ping => {
                script.pings += 1;
                wire::encode_pong(&mut self.output);
            }
            Inbound::Goodbye => return false,
            Inbound::Request { id, .. } if !script.takes(self.shown.as_ref()) => {
                wire::encode_refused(id, &unauthenticated(), &mut self.output);
            }
            Inbound::Request { id, deadline_ms, request } => {
                script.deadlines.push(deadline_ms);
                let deadline = Instant::now() + Duration::from_millis(u64::from(deadline_ms));
                let asked = request.clone();
                let verdict = script.take(request);
                drop(script);
                match verdict {
                    Verdict::Answer(Response::Refused(Refusal::NotYet { .. })) => {
                        self.answer_late(id, asked, LOOK_AGAIN, deadline);
                    }
                    Verdict::Answer(response) => return self.answer(id, asked, response),
                    Verdict::AnswerLate(response, late) => {
                        let answers = self.answers.clone();
                        self.late.spawn(async move {
                            sleep(late).await;
                            let _ = answers.send((id, response));
                        });
                    }
                    Verdict::DoLate(request, late) => {
                        self.answer_late(id, request, late, deadline);
                    }
                    Verdict::Silence => {}
                    Verdict::Drop => return false,
                }
            }
        }
        true
    }

    /// Answers, if it is a feed with the pages that follow: each as if it had been asked for.
    fn answer(&mut self, id: u64, mut asked: Request, mut response: Response) -> bool {
        let mut following = match &asked {
            Request::Feed(query) => Following::new(query),
            _ => Following::new(&FeedQuery::default()),
        };
        loop {
            let frame = self.output.len() + wire::FRAME_LENGTH_BYTES;
            wire::encode_response(id, &response, &mut self.output);
            let (Request::Feed(query), Response::Feed(page)) = (&mut asked, &response) else {
                return true;
            };
            if !following.goes_on(page, self.output.len() - frame) {
                return true;
            }
            query.after = Some(page.upto);
            let verdict = self.script.lock().expect("not poisoned").take(asked.clone());
            match verdict {
                Verdict::Answer(next) => response = next,
                Verdict::Drop => return false,
                _ => panic!("a page that follows comes, or the connection breaks"),
            }
        }
    }

    /// Does it later; if it waits for a stamp, again and again until its deadline.
    fn answer_late(&mut self, id: u64, request: Request, late: Duration, deadline: Instant) {
        let (script, answers) = (Arc::clone(&self.script), self.answers.clone());
        self.late.spawn(async move {
            sleep(late).await;
            loop {
                let again = request.clone();
                let response = script.lock().expect("not poisoned").perform_late(again);
                let waits = matches!(response, Response::Refused(Refusal::NotYet { .. }));
                if !waits || Instant::now() >= deadline {
                    // A client that is gone needs no answer.
                    let _ = answers.send((id, response));
                    return;
                }
                sleep(LOOK_AGAIN).await;
            }
        });
    }
}

fn unauthenticated() -> Refusal {
    Refusal::Unauthenticated { reason: "it is over".to_owned() }
}

fn welcome(script: &Script, output: &mut BytesMut) {
    let welcome = wire::Welcome {
        protocol: 1,
        cluster_id: ClusterId::new(script.cluster),
        node_id: "fake".into(),
        shards: 1,
        request_bytes_max: 1 << 20,
        requests_max: 100,
    };
    wire::encode_welcome(&welcome, output);
}
