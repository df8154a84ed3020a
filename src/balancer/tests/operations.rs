//! Starting, watching and stopping.

use super::*;

fn error(settings: &config::Balancer) -> String {
    Balancer::bind(settings, Inherited::default())
        .expect_err("it cannot start")
        .to_string()
}

#[tokio::test]
async fn what_cannot_be_had_is_named_with_its_setting() {
    let node = Node::named("a").await;
    let good = settings(&[&node]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken
        .local_addr()
        .map(|address| (taken, address))
        .expect("bound");

    let mut wrong = good.clone();
    wrong.listen = vec![taken.1];
    let text = error(&wrong);
    assert!(text.starts_with("balancer.listen: "), "{text}");
    assert!(text.contains(&taken.1.to_string()), "{text}");

    let mut wrong = good.clone();
    wrong.nodes.insert(
        "bad".to_owned(),
        config::Node {
            address: "no port".to_owned(),
        },
    );
    let text = error(&wrong);
    assert!(text.starts_with("balancer.nodes.bad.address: "), "{text}");

    let mut wrong = good.clone();
    wrong.nodes.clear();
    assert!(error(&wrong).starts_with("balancer.nodes: "));

    let mut wrong = good.clone();
    wrong.listen.clear();
    assert!(error(&wrong).starts_with("balancer.listen: "));

    let mut wrong = good.clone();
    wrong.access_log = Some("/nowhere/at/all.log".to_owned());
    assert!(error(&wrong).starts_with("balancer.access_log: "));

    let mut wrong = good.clone();
    wrong.health.path = "no path".to_owned();
    assert!(error(&wrong).starts_with("balancer.health.path: "));

    let mut wrong = good;
    wrong
        .routes
        .insert("x".to_owned(), config::Route::default());
    assert!(error(&wrong).starts_with("balancer.routes.x.path: "));
}

#[tokio::test]
async fn it_serves_on_all_its_addresses() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings
        .listen
        .push("127.0.0.1:0".parse().expect("an address"));
    let balancer = Balancer::bind(&settings, Inherited::default()).expect("everything is there");
    let addresses = balancer.addresses();
    let (_orders, ordered) = watch::channel(Order::Serve);
    let task = tokio::spawn(balancer.run(ordered, || {}));
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(Client::connect(address).await.get("/").await.text(), "a");
    }
    task.abort();
}

#[tokio::test]
async fn stopping_finishes_what_runs_and_takes_nothing_new() {
    let node = Node::start(|request| match request.line() {
        "GET /slow HTTP/1.1" => Reply::Hang,
        _ => answer(200, "quick"),
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut idle = running.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut slow = running.client().await;
    slow.write("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        .await;
    let begun = || running.metric("pgweir_http_requests_in_flight", &[]) == 1.0;
    eventually("the slow request has begun", begun).await;

    running.begin_to_stop();
    assert!(
        idle.is_closed().await,
        "an idle connection has nothing to finish"
    );
    let address = running.address;
    let refused = || std::net::TcpStream::connect(address).is_err();
    eventually("nobody is let in", refused).await;
    slow.write("lo").await;
    let answer = slow.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(slow.is_closed().await);
    let end = in_time("the end", running.task).await;
    end.expect("no panic").expect("no error");
}

#[tokio::test]
async fn stopping_does_not_wait_longer_than_a_request_may_take() {
    let node = Node::start(|_| Reply::Hang).await;
    let mut settings = settings(&[&node]);
    settings.request_timeout = 200 * MS;
    let running = Running::ready(&settings).await;
    // A head that never ends has more time than that.
    let mut client = running.client().await;
    client.write("GET / HT").await;
    running.begin_to_stop();
    let end = in_time("the end", running.task).await;
    end.expect("no panic").expect("no error");
}

#[tokio::test]
async fn the_log_has_a_line_for_every_request() {
    let folder = std::env::temp_dir().join(format!("pgweir-access-log-{}", std::process::id()));
    let (a, b) = (Node::start(|_| Reply::Close).await, Node::named("b").await);
    let mut settings = settings(&[&a, &b]);
    settings.health.interval = 60 * SECOND;
    settings.access_log = Some(folder.to_string_lossy().into_owned());
    let route = config::Route {
        path: "/api/movie/{id}".to_owned(),
        ..config::Route::default()
    };
    settings.routes = BTreeMap::from([("movie".to_owned(), route)]);
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client.get("/api/movie/17?x").await;
    client
        .write(
            "POST /else HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\
             traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await;
    client.answer().await;
    client.write("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.answer().await;
    running.begin_to_stop();
    in_time("the end", running.task)
        .await
        .expect("no panic")
        .expect("no error");

    let log = std::fs::read_to_string(&folder).expect("a log");
    std::fs::remove_file(&folder).expect("it is there");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3, "{log}");
    let (get, post, trace) = (&lines[0], &lines[1], &lines[2]);
    assert_eq!(get["target"], "/api/movie/17?x");
    assert_eq!(
        (&get["route"], &get["status"], &get["bytes_out"]),
        (&"movie".into(), &200.into(), &1.into())
    );
    assert_eq!(get["node"], "n1");
    assert_eq!(get["attempts"][0]["outcome"], "ambiguous");
    assert_eq!(get["attempts"][1]["outcome"], "200");
    assert_eq!(
        (&post["route"], &post["bytes_in"], &post["request_id"]),
        (&"other".into(), &3.into(), &"mine".into())
    );
    assert_eq!(post["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(get["trace_id"], serde_json::Value::Null);
    assert_eq!(
        (&trace["status"], &trace["error"], &trace["node"]),
        (&405.into(), &"trace".into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn numbers_are_by_route_and_by_node() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.routes = BTreeMap::from([(
        "movie".to_owned(),
        route("/api/movie/{id}", Default::default()),
    )]);
    let running = Running::ready(&settings).await;
    for id in 0..5 {
        running.get(&format!("/api/movie/{id}")).await;
    }
    running.get("/unknown").await;
    running.until(|it| it.requests == 6).await;
    let count = |route| {
        let labels = [
            ("route", route),
            ("method", "GET"),
            ("code", "200"),
            ("proto", "http/1.1"),
        ];
        running.metric("pgweir_http_requests_total", &labels)
    };
    assert_eq!((count("movie"), count("other")), (5.0, 1.0));
    let at_node = [("upstream", "n0"), ("code", "200")];
    assert_eq!(
        running.metric("pgweir_http_upstream_requests_total", &at_node),
        6.0
    );
    let up = [("upstream", "n0"), ("state", "up")];
    assert_eq!(running.metric("pgweir_http_upstream_state", &up), 1.0);
    assert_eq!(running.metric("pgweir_http_requests_in_flight", &[]), 0.0);
    let snapshot = running.observer.snapshot();
    assert_eq!((snapshot.errors, snapshot.nodes), (0, 1));
    assert!(snapshot.p50 <= snapshot.p90 && snapshot.p90.is_some());
}

#[tokio::test]
async fn it_runs_on_one_thread_and_on_many() {
    for threads in [1, 2] {
        let worker = std::thread::spawn(move || {
            let mut builder = match threads {
                1 => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            let runtime = builder.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let node = Node::named("a").await;
                let running = Running::ready(&settings(&[&node])).await;
                assert_eq!(running.get("/").await.text(), "a");
            });
        });
        worker.join().expect("no panic");
    }
}
