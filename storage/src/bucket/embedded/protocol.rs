//! What the S3 protocol asks of the store: objects of one bucket, whole bodies, conditions.
//!
//! Everything else (multipart, versions, policies, copies) is answered "not implemented" by s3s.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition, GetBucketLocationInput,
    GetBucketLocationOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object,
    PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio::sync::Semaphore;

use super::store::{self, Condition, Refusal, Store};

/// File operations at a time: what a disk overlaps, and fewer threads than requests.
const BLOCKING_MAX: usize = 16;
/// Most keys in one page of a list.
const PAGE_KEYS_MAX: usize = 1000;

pub(super) struct Protocol {
    store: Arc<Store>,
    bucket: String,
    body_bytes_max: usize,
    blocking: Semaphore,
}

impl Protocol {
    pub(super) fn new(store: Store, bucket: String, body_bytes_max: usize) -> Self {
        let blocking = Semaphore::new(BLOCKING_MAX);
        Self { store: Arc::new(store), bucket, body_bytes_max, blocking }
    }

    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket {
            return Ok(());
        }
        Err(s3_error!(NoSuchBucket, "there is only {}", self.bucket))
    }

    /// Does `work` on a thread that may wait for the disk. It runs to its end even when the request
    /// goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Refusal> + Send + 'static,
    ) -> S3Result<T> {
        let closed = |_| s3_error!(ServiceUnavailable, "shutting down");
        let _permit = self.blocking.acquire().await.map_err(closed)?;
        let store = self.store.clone();
        // The runtime is this bucket's own, and waits for these at its end.
        #[allow(clippy::disallowed_methods)]
        let worked = tokio::task::spawn_blocking(move || work(&store)).await;
        match worked {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(refusal)) => Err(answer(refusal)),
            Err(_) => Err(s3_error!(InternalError, "the store panicked")),
        }
    }

    async fn read(&self, bucket: &str, key: String) -> S3Result<store::Object> {
        self.check_bucket(bucket)?;
        self.blocking(move |store| store.get(&key)).await
    }

    /// Grows with what arrives.
    async fn collect(&self, body: Option<StreamingBlob>) -> S3Result<Bytes> {
        let mut collected = BytesMut::new();
        let Some(body) = body else { return Ok(collected.freeze()) };
        let mut body = Body::from(body);
        while let Some(frame) = body.frame().await {
            let broken = |_| s3_error!(IncompleteBody, "the body ended early or is not as signed");
            let Ok(chunk) = frame.map_err(broken)?.into_data() else { continue };
            if collected.len() + chunk.len() > self.body_bytes_max {
                return Err(answer(Refusal::TooLarge));
            }
            collected.extend_from_slice(&chunk);
        }
        Ok(collected.freeze())
    }
}

fn answer(refusal: Refusal) -> S3Error {
    match refusal {
        Refusal::Precondition => {
            s3_error!(PreconditionFailed, "at least one of the conditions did not hold")
        }
        Refusal::Missing => s3_error!(NoSuchKey, "there is no such object"),
        Refusal::KeyTooLong => s3_error!(KeyTooLongError, "the key is too long"),
        Refusal::TooLarge => s3_error!(EntityTooLarge, "the body is too large"),
        Refusal::Io(error) => {
            tracing::error!(%error, "the embedded bucket's store failed");
            S3Error::with_message(S3ErrorCode::InternalError, error.to_string())
        }
    }
}

fn condition(input: &PutObjectInput) -> S3Result<Condition> {
    match (&input.if_none_match, &input.if_match) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Absent),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Present),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::Version(etag.value().to_owned())),
        _ => Err(s3_error!(NotImplemented, "only If-None-Match: * or If-Match")),
    }
}

#[async_trait::async_trait]
impl S3 for Protocol {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let mut input = request.input;
        self.check_bucket(&input.bucket)?;
        let condition = condition(&input)?;
        let body = self.collect(input.body.take()).await?;
        let key = input.key;
        let etag = self.blocking(move |store| store.put(&key, &body, &condition)).await?;
        let output = PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        if request.input.range.is_some() {
            return Err(s3_error!(NotImplemented, "no ranges"));
        }
        let object = self.read(&request.input.bucket, request.input.key).await?;
        let length = i64::try_from(object.body.len()).ok();
        let output = GetObjectOutput {
            e_tag: Some(ETag::Strong(object.etag)),
            content_length: length,
            body: Some(StreamingBlob::from(Body::from(object.body))),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.read(&request.input.bucket, request.input.key).await?;
        let output = HeadObjectOutput {
            e_tag: Some(ETag::Strong(object.etag)),
            content_length: i64::try_from(object.body.len()).ok(),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        if request.input.if_match.is_some() {
            return Err(s3_error!(NotImplemented, "no conditions on deletes"));
        }
        let key = request.input.key;
        self.blocking(move |store| store.delete(&key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "no delimiters"));
        }
        let asked = input.max_keys.and_then(|max| usize::try_from(max).ok());
        let max = asked.unwrap_or(PAGE_KEYS_MAX).min(PAGE_KEYS_MAX);
        let prefix = input.prefix.clone().unwrap_or_default();
        // A page goes on after the last key of the one before.
        let after = input.continuation_token.clone().or(input.start_after).unwrap_or_default();
        let listed = self.blocking(move |store| store.list(&prefix, &after, max)).await;
        let (objects, more) = listed?;
        let next = objects.last().filter(|_| more).map(|(key, _)| key.clone());
        let count = i32::try_from(objects.len()).ok();
        let contents = objects.into_iter().map(|(key, size)| Object {
            key: Some(key),
            size: i64::try_from(size).ok(),
            ..Default::default()
        });
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            max_keys: i32::try_from(max).ok(),
            key_count: count,
            is_truncated: Some(more),
            continuation_token: input.continuation_token,
            next_continuation_token: next,
            contents: Some(contents.collect()),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }
}
