//! The same by every protocol: 23, 24 and 25.

use hyper::header::LOCATION;

use crate::load::{Ask, Endpoint, Outcome, Protocol, Sample, Site, call};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{DOMAIN, Stage, TIMEOUT};

/// What is asked of each endpoint. Answers of the first ones are the same each
/// time.
fn asks(stage: &Stage) -> (Vec<Ask>, Vec<Ask>) {
    let facts = &stage.scribe.facts;
    let whole = (1..=facts.sessions).find(|id| !facts.broken.contains(id));
    let stable = vec![
        Ask::of(Endpoint::Index),
        Ask::of(Endpoint::Ping),
        Ask::of(Endpoint::Config),
        Ask::of(Endpoint::Movies),
        Ask::by_id(Endpoint::Movie, facts.movies),
        Ask::of(Endpoint::Customers),
        Ask::by_id(Endpoint::Customer, facts.customers),
        Ask::of(Endpoint::Sessions),
        Ask::by_id(Endpoint::Session, whole.unwrap_or_default()),
        Ask::by_id(Endpoint::Movie, facts.movies + 1),
    ];
    let signed = vec![
        Ask::of(Endpoint::DbDummy),
        Ask::of(Endpoint::LongDummy),
        Ask::operation(0),
    ];
    (stable, signed)
}

/// Check 23: by name, with a certificate for that name, and not for another.
pub(crate) async fn https(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut findings = Vec::new();
    for protocol in [Protocol::Tls, Protocol::Http2] {
        let answers = ask_all(stage, protocol).await?;
        let good = answers.iter().filter(|it| is_right(it)).count();
        let pass = good == answers.len();
        let measured = format!("{good} of {} answers right, SNI {DOMAIN}", answers.len());
        findings.push(Finding::part(protocol.to_string(), pass, measured));
    }
    let plan = &stage.pgweir.plan;
    let trust = plan.trust()?;
    let stranger = trust.but_for("somebody.example");
    let port = plan.balancer.as_ref().map_or(0, |it| it.https_port);
    let site = Site::secure(port, Protocol::Tls, &stranger);
    let (sample, _) = call(&site, &Ask::of(Endpoint::Ping), TIMEOUT).await;
    let refused = matches!(&sample.outcome, Outcome::Transport(why) if why.contains("certificate"));
    let measured = format!("{:?}", sample.outcome);
    findings.push(Finding::part(
        "certificate of another name",
        refused,
        measured,
    ));
    Ok(findings)
}

/// Check 24: each endpoint in clear, and the answers of all loads so far.
pub(crate) async fn no_redirects(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let answers = ask_all(stage, Protocol::Plain).await?;
    let good = answers.iter().filter(|it| is_right(it)).count();
    let led = answers
        .iter()
        .filter(|it| it.sample.headers.contains_key(LOCATION))
        .count();
    let redirects = stage.origin.redirects;
    let pass = good == answers.len() && led == 0 && redirects == 0;
    let measured = format!(
        "{good} of {} answers right; {led} with a Location; {redirects} redirects in all loads",
        answers.len()
    );
    Ok(Finding::whole(pass, measured))
}

/// Check 25: HTTP/3 is offered by answers over TLS, and answers as they do.
pub(crate) async fn http3(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let over_tcp = ask_all(stage, Protocol::Http2).await?;
    let over_udp = ask_all(stage, Protocol::Http3).await?;
    let port = stage
        .pgweir
        .plan
        .balancer
        .as_ref()
        .map_or(0, |it| it.https_port);
    let offer = format!("h3=\":{port}\"");
    let offered = over_tcp.iter().filter(|it| it.offers(&offer)).count();
    let total = over_tcp.len();
    let offers = format!("{offered} of {total} answers over TCP say {offer}");
    let pairs = over_tcp.iter().zip(&over_udp);
    let differ: Vec<_> = pairs
        .filter(|(tcp, udp)| !is_right(udp) || !tcp.is_like(udp))
        .map(|(_, udp)| format!("{} {:?}", udp.ask.path, udp.sample.outcome))
        .collect();
    let same = format!(
        "{} of {total} answers as over TCP{}",
        total - differ.len(),
        {
            let few: Vec<_> = differ.iter().take(3).cloned().collect();
            if few.is_empty() {
                String::new()
            } else {
                format!("; not {}", few.join(", "))
            }
        }
    );
    Ok(vec![
        Finding::part("alt-svc", offered == total, offers),
        Finding::part("same answers", differ.is_empty(), same),
    ])
}

/// A request, its answer and all of its body.
struct Answer {
    ask: Ask,
    /// The same each time, or signed.
    stable: bool,
    sample: Sample,
    body: bytes::Bytes,
}

impl Answer {
    fn offers(&self, offer: &str) -> bool {
        let offers = self.sample.headers.get("alt-svc");
        let offers = offers.and_then(|value| value.to_str().ok());
        offers.is_some_and(|it| it.contains(offer))
    }

    fn is_like(&self, other: &Answer) -> bool {
        let kind = |it: &Answer| it.sample.headers.get("content-type").cloned();
        let same = !self.stable || self.body == other.body;
        self.sample.outcome == other.sample.outcome && kind(self) == kind(other) && same
    }
}

/// Absent rows are 404, everything else is there.
fn is_right(answer: &Answer) -> bool {
    match &answer.sample.outcome {
        Outcome::Status(200) => {
            let text = !answer.body.is_empty();
            text && (answer.stable || answer.sample.signature.is_some())
        }
        Outcome::Status(404) => &answer.body[..] == b"not found",
        _ => false,
    }
}

async fn ask_all(stage: &Stage, protocol: Protocol) -> Result<Vec<Answer>, Problem> {
    let site = stage.visit(protocol)?;
    let (stable, signed) = asks(stage);
    let stable = stable.into_iter().map(|ask| (ask, true));
    let signed = signed.into_iter().map(|ask| (ask, false));
    let mut answers = Vec::new();
    for (ask, stable) in stable.chain(signed) {
        // Lists have the time that their checks give them.
        let (sample, body) = call(&site, &ask, super::lists::TIMEOUT).await;
        answers.push(Answer {
            ask,
            stable,
            sample,
            body,
        });
    }
    Ok(answers)
}
