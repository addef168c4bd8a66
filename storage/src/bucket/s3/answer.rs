//! What the answer of an S3 endpoint means for an operation.
//!
//! When in doubt a mutation is in doubt: only answers that the endpoint gives before it acts, and
//! requests that never left, are certain to have had no effect.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use hyper_util::client::legacy;

use crate::bucket::{BucketError, Cause, Conflict, Done, Effect, Op, Outcome};

/// Of an operation that the SDK calls failed.
pub(super) fn outcome<E>(op: &Op, error: &SdkError<E, HttpResponse>) -> Outcome
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let detail = || DisplayErrorContext(error).to_string();
    match error {
        SdkError::ServiceError(answer) => {
            let (status, code) = (answer.raw().status().as_u16(), answer.err().code());
            of_answer(op, status, code.unwrap_or(""), answer.err().message().unwrap_or(""))
        }
        SdkError::ConstructionFailure(_) => {
            Err(BucketError::new(op, Cause::Refused, Effect::None, detail()))
        }
        SdkError::TimeoutError(_) => Err(BucketError::lost(op, Cause::Deadline, detail())),
        SdkError::DispatchFailure(failure) => {
            let source = failure.as_connector_error().and_then(|error| error.source());
            Err(undelivered(op, source, detail()))
        }
        _ => Err(BucketError::lost(op, Cause::Garbled, detail())),
    }
}

/// The request may not have reached the endpoint.
fn undelivered(op: &Op, source: Option<&(dyn Error + 'static)>, detail: String) -> BucketError {
    for error in std::iter::successors(source, |&error| error.source()) {
        // Without credentials nothing was signed, so nothing was sent.
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            let cause = match error {
                CredentialsError::CredentialsNotLoaded(_)
                | CredentialsError::InvalidConfiguration(_) => Cause::Denied,
                _ => Cause::Unavailable,
            };
            return BucketError::new(op, cause, Effect::None, detail);
        }
        if error.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect) {
            return BucketError::new(op, Cause::Unreachable, Effect::None, detail);
        }
    }
    BucketError::lost(op, Cause::Lost, detail)
}

/// Of an answer with `status` and error `code`.
fn of_answer(op: &Op, status: u16, code: &str, message: &str) -> Outcome {
    let detail = || format!("{status} {code} {message}").trim_end().to_owned();
    let certain = |cause| Err(BucketError::new(op, cause, Effect::None, detail()));
    let conditional = matches!(op, Op::PutIfAbsent { .. } | Op::PutIfMatch { .. });
    match (status, code) {
        (404, "NoSuchBucket") => certain(Cause::NoBucket),
        (404, _) => match op {
            Op::Get { .. } => Ok(Done::Absent),
            Op::PutIfMatch { .. } => Ok(Done::Conflict(Conflict::Missing)),
            Op::Delete { .. } => Ok(Done::Deleted),
            _ => certain(Cause::Refused),
        },
        (412, _) if conditional => Ok(Done::Conflict(Conflict::Precondition)),
        (409, _) if conditional => Ok(Done::Conflict(Conflict::Concurrent)),
        (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            certain(Cause::Denied)
        }
        (413, _) | (400, "EntityTooLarge") => certain(Cause::TooLarge),
        // A proxy on the way may have passed the request on before it said so.
        (429, _) | (503, "SlowDown" | "SlowDownRead" | "SlowDownWrite" | "ServiceBusy") => {
            Err(BucketError::lost(op, Cause::Throttled, detail()))
        }
        (500.., _) | (408, _) | (400, "RequestTimeout") if status != 501 => {
            Err(BucketError::lost(op, Cause::Unavailable, detail()))
        }
        (501, _) | (300..=400, _) => certain(Cause::Refused),
        _ => Err(BucketError::lost(op, Cause::Refused, detail())),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bucket::{ETag, Key};

    fn ops() -> [Op; 3] {
        let (key, body) = (Key::new("config"), Bytes::new());
        [
            Op::Get { key: key.clone() },
            Op::PutIfAbsent { key: key.clone(), body: body.clone() },
            Op::PutIfMatch { key, etag: ETag::new("\"x\""), body },
        ]
    }

    fn failed(outcome: Outcome) -> (Cause, Effect) {
        let error = outcome.expect_err("it failed");
        (error.cause, error.effect)
    }

    #[test]
    fn refusals_of_conditions_are_conflicts_and_told_apart() {
        let [_, absent, matching] = ops();
        for op in [&absent, &matching] {
            for (status, conflict) in [(412, Conflict::Precondition), (409, Conflict::Concurrent)] {
                let done = of_answer(op, status, "", "").expect("an answer");
                assert_eq!(done, Done::Conflict(conflict));
            }
        }
        let missing = of_answer(&matching, 404, "NoSuchKey", "").expect("an answer");
        assert_eq!(missing, Done::Conflict(Conflict::Missing));
    }

    #[test]
    fn nothing_there_is_not_the_same_as_no_bucket() {
        let [get, ..] = ops();
        assert_eq!(of_answer(&get, 404, "NoSuchKey", "").expect("an answer"), Done::Absent);
        let no_bucket = of_answer(&get, 404, "NoSuchBucket", "");
        assert_eq!(failed(no_bucket), (Cause::NoBucket, Effect::None));
    }

    #[test]
    fn a_put_is_in_doubt_unless_the_answer_rules_it_out() {
        let [get, put, _] = ops();
        for status in [500, 502, 503, 504, 408, 429, 418] {
            assert_eq!(failed(of_answer(&put, status, "", "")).1, Effect::Unknown, "{status}");
            assert_eq!(failed(of_answer(&get, status, "", "")).1, Effect::None, "{status}");
        }
        for (status, cause) in [(403, Cause::Denied), (400, Cause::Refused), (501, Cause::Refused)]
        {
            assert_eq!(failed(of_answer(&put, status, "", "")), (cause, Effect::None));
        }
        let throttled = failed(of_answer(&put, 503, "SlowDown", ""));
        assert_eq!(throttled, (Cause::Throttled, Effect::Unknown));
    }
}
