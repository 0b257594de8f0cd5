//! Measures servers side by side: interleaved rounds, medians, ratios. Started by `tests/bench/run`, which says of each
//! server how it is started.

mod aids;
mod load;
mod scenario;
mod server;
mod table;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use aids::{Aids, Sink};
use scenario::Scenario;
use server::Server;
use table::Rounds;

struct Settings {
    rounds: usize,
    time: Duration,
    scenarios: Vec<Scenario>,
    servers: Vec<Server>,
}

const USAGE: &str = "rsmtpd-bench [--rounds 1..20] [--seconds 1..30] [--scenarios NAME,...] \
    [--sink PORT] [--pair CERTIFICATE KEY] [--server NAME PORT PROXY_PORT MAIL_DIRECTORY LOG CGROUP COMMAND... --end]...";

fn settings(mut words: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        rounds: 3,
        time: Duration::from_secs(4),
        scenarios: scenario::ALL.to_vec(),
        servers: Vec::new(),
    };
    let mut aids = Aids::default();
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or_else(|| format!("{word}: something is missing"));
        match word.as_str() {
            "--rounds" => settings.rounds = number(&next()?, 1, 20)? as usize,
            "--seconds" => settings.time = Duration::from_secs(number(&next()?, 1, 30)?),
            "--scenarios" => settings.scenarios = next()?.split(',').map(named).collect::<Result<_, _>>()?,
            "--sink" => {
                let sink = Sink::start(number(&next()?, 1, 65535)? as u16);
                aids.sink = Some(sink.map_err(|error| format!("--sink: {error}"))?);
            }
            "--pair" => aids.pair = Some((next()?.into(), next()?.into())),
            "--server" => {
                let (name, port) = (next()?, number(&next()?, 1, 65535)? as u16);
                let proxy = number(&next()?, 1, 65535)? as u16;
                let (mail, log, cgroup) = (next()?.into(), next()?.into(), PathBuf::from(next()?));
                let command = words.by_ref().take_while(|word| word != "--end").collect();
                settings.servers.push(Server {
                    name,
                    port,
                    proxy,
                    aids: aids.clone(),
                    mail,
                    command,
                    log,
                    cgroup,
                    found: Default::default(),
                });
            }
            other => return Err(format!("{other}: unknown; {USAGE}")),
        }
    }
    if settings.servers.is_empty() {
        Err(USAGE.to_owned())
    } else {
        Ok(settings)
    }
}

fn number(word: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = word.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{word}: expected a number from {least} to {most}"))
}

fn named(name: &str) -> Result<Scenario, String> {
    let names = || scenario::ALL.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
    let found = scenario::ALL.iter().find(|one| one.name == name).copied();
    found.ok_or_else(|| format!("{name}: expected one of {}", names()))
}

/// Every scenario against every server, in turn, so often.
fn measure(settings: &Settings) -> (Vec<Rounds>, bool) {
    let mut clean = true;
    let empty = |one: &Scenario| Rounds {
        scenario: one.name,
        about: one.about,
        numbers: vec![Vec::new(); settings.servers.len()],
    };
    let mut all: Vec<Rounds> = settings.scenarios.iter().map(empty).collect();
    for round in 0..settings.rounds {
        for (scenario, rounds) in settings.scenarios.iter().zip(&mut all) {
            // Every other round in the other order, so that none is always first.
            let mut order: Vec<usize> = (0..settings.servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let server = &settings.servers[index];
                let result = scenario.run(server, settings.time);
                match &result {
                    Ok(numbers) => {
                        let said: Vec<String> = numbers
                            .iter()
                            .map(|number| format!("{} {:.3}", number.what, number.value))
                            .collect();
                        eprintln!(
                            "round {}: {}: {}: {}",
                            round + 1,
                            scenario.name,
                            server.name,
                            said.join(", ")
                        );
                    }
                    Err(error) => {
                        clean = false;
                        eprintln!(
                            "round {}: {}: {}: FAILED: {error}",
                            round + 1,
                            scenario.name,
                            server.name
                        );
                    }
                }
                rounds.numbers[index].push(result.ok());
            }
        }
    }
    (all, clean)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, chain, key] = words.as_slice()
        && first == "--reference"
    {
        let ended = aids::refer(chain.as_ref(), key.as_ref());
        eprintln!("--reference: {ended:?}");
        return ExitCode::from(2);
    }
    let settings = match settings(words.into_iter()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let (all, clean) = measure(&settings);
    let names: Vec<String> = settings.servers.iter().map(|server| server.name.clone()).collect();
    let met = table::print(&names, &all);
    match (clean, met) {
        (false, _) => {
            println!("\nSomething failed: see above.");
            ExitCode::from(2)
        }
        (true, false) => {
            println!("\nNot everything is as expected.");
            ExitCode::from(1)
        }
        (true, true) => ExitCode::SUCCESS,
    }
}
