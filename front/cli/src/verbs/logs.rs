//! `logs`.

use http_body_util::BodyExt;
use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;

use crate::arguments::LogsArgs;
use crate::client::{self, Client, Target};
use crate::error::{Error, Message};
use crate::frames::Frames;
use crate::pipes::Output;

/// `atoll logs`.
pub(super) async fn logs(client: &Client, args: &LogsArgs) -> Result<(), Error> {
    let name = &args.name;
    let action = format!("read the logs of container {name}");
    let target = Target::object("containers", name, "json");
    let details: Value = client.get(&action, &target).await?;
    let is_tty = details
        .pointer("/Config/Tty")
        .and_then(Value::as_bool)
        .unwrap_or(false);

    let since = args
        .since
        .as_deref()
        .map(|text| time("--since", text))
        .transpose()?;
    let until = args
        .until
        .as_deref()
        .map(|text| time("--until", text))
        .transpose()?;
    let target = Target::object("containers", name, "logs")
        .with("stdout", 1)
        .with("stderr", 1)
        .with("tail", &args.tail)
        .with_flag("follow", args.follow)
        .with_flag("timestamps", args.timestamps)
        .with_some("since", since)
        .with_some("until", until);
    let answer = client
        .request(&action, Method::GET, &target, client::empty())
        .await?;
    let mut body = answer.into_body();
    let mut frames = Frames::new(is_tty);
    let output = Output::start()?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Error::http(&action))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        frames.buffer().extend_from_slice(data);
        while let Some((stream, bytes)) = frames.next().map_err(|bad| Error::Answer {
            action: action.clone(),
            message: Message(bad.to_string()),
        })? {
            if !output.write(stream, bytes).await {
                return output.finish().await;
            }
        }
    }
    output.finish().await
}

/// A time for the engine, in seconds since 1970: RFC 3339, such seconds, or a span before now.
fn time(flag: &str, text: &str) -> Result<String, Error> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_number {
        return Ok(text.to_owned());
    }
    let time = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let span: jiff::SignedDuration = text.parse().map_err(|_| {
                Error::value(
                    flag,
                    text,
                    "expected a time like 2026-01-31T12:00:00Z or 10m",
                )
            })?;
            Timestamp::now()
                .saturating_sub(span)
                .unwrap_or(Timestamp::UNIX_EPOCH)
        }
    };
    Ok(format!(
        "{}.{:09}",
        time.as_second(),
        time.subsec_nanosecond()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(time("--since", "12.5").unwrap(), "12.5");
        assert_eq!(
            time("--since", "1970-01-01T00:01:00Z").unwrap(),
            "60.000000000"
        );
        assert!(time("--since", "yesterday").is_err());
        let ten_minutes = time("--since", "10m").unwrap();
        let seconds: i64 = ten_minutes.split_once('.').unwrap().0.parse().unwrap();
        assert!((Timestamp::now().as_second() - seconds - 600).abs() <= 1);
    }
}
