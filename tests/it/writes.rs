//! 10,000 writes, while there is a fault in every phase of some: each is applied once, or not, or its
//! outcome is unknown, and its answer says which. None is doubled, and none reaches the Mac that does
//! not own the writes.
//!
//! Held against what the Macs applied, by the number of each write. `TAILHOP_SEED=n` plays one world
//! alone; a world that fails prints its seed.

mod clients;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::clients::{Outcome, Said, Shared, client};
use crate::chaos::{Dice, Told};
use crate::support::app::{App, behind};
use crate::support::ledger::{Fate, LIMITED, Ledger, RETRY_AFTER, TIMED_OUT};
use crate::support::tailscaled::Tailscaled;
use crate::support::time::{Held, really};

const WORLDS: u64 = 80;
/// How many of them run beside each other under one clock.
const TOGETHER: usize = 20;
const CLIENTS: usize = 25;
/// Writes of one client, one after the other: 80 x 25 x 5 are 10,000.
const EACH: usize = 5;
const EVENTS: usize = 8;
/// Events begin within this, and so does most of the writes.
const STORM: u64 = 8_000;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// `total` of the configuration, and what a busy machine may add.
const BOUND: Duration = Duration::from_secs(7);
const SETTINGS: &str = "schedule.default = \"m1\"\n\
    timeouts = { head = \"2s\", wait = \"1s\", connect = \"800ms\", idle = \"1s\", total = \"6s\" }";
const FATES: [Fate; 14] = [
    Fate::ThenClosed,
    Fate::Unread,
    Fate::AfterHead,
    Fate::MidBody,
    Fate::Unapplied,
    Fate::Unanswered,
    Fate::Hung,
    Fate::HeadCut,
    Fate::BodyCut,
    Fate::Stalled,
    Fate::StalledUnapplied,
    Fate::BodyStalled,
    Fate::Limited,
    Fate::TimedOut,
];

/// What happens around the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Dials are refused.
    Refuse,
    /// The Mac falls asleep: dials and what is on its way get no answer.
    Sleep,
    /// Dials take long.
    Far,
    /// The direct path is lost.
    PathLost,
    /// The relay is dead, and nobody knows.
    RelayDead,
    /// An edit names the other Mac as active.
    Move,
    /// An order drains the active Mac.
    Drain,
    /// tailhop is stopped, and another one starts.
    Stop,
    /// All that ends by itself has ended.
    Heal,
}

const FAULTS: [Event; 8] = [
    Event::Refuse,
    Event::Sleep,
    Event::Far,
    Event::PathLost,
    Event::RelayDead,
    Event::Move,
    Event::Drain,
    Event::Stop,
];

/// Two Macs, a tailnet, and tailhop.
struct World {
    fake: Tailscaled,
    macs: [Ledger; 2],
    app: Option<App>,
    shared: Arc<Shared>,
}

impl World {
    async fn start(fates: Vec<Fate>) -> Self {
        let fake = Tailscaled::start().await;
        let fates = Arc::new(fates);
        let ledger = || {
            let fates = Arc::clone(&fates);
            Ledger::start(Arc::new(move |number| fates[number]))
        };
        let macs = [ledger().await, ledger().await];
        for (name, mac) in ["m1", "m2"].iter().zip(&macs) {
            serve(&fake, name, mac);
        }
        let app = App::start(&behind(&fake, SETTINGS)).await;
        let shared = Shared::new(app.data);
        Self {
            fake,
            macs,
            app: Some(app),
            shared: Arc::new(shared),
        }
    }

    async fn suffers(&mut self, event: Event) {
        let owner = self.shared.owner();
        let name = ["m1", "m2"][owner];
        match event {
            Event::Refuse => self.fake.refuse(name),
            Event::Sleep => self.fake.silence(name),
            Event::Far => self.fake.far(name, 600 * MS),
            Event::PathLost => {
                self.fake.direct(name);
                self.fake.path_lost(name);
            }
            Event::RelayDead => self.fake.relay_dead(),
            Event::Move => {
                let [was, is] = [name, ["m2", "m1"][owner]];
                self.shared.own([true, true]);
                let default = |name| format!("schedule.default = \"{name}\"");
                self.edit(&default(was), &default(is)).await;
                self.shared.own([owner == 1, owner == 0]);
            }
            Event::Drain => {
                let [well, drained] = drain(name);
                self.edit(&well, &drained).await;
            }
            Event::Stop => {
                let app = self.app.take().unwrap();
                let text = std::fs::read_to_string(app.file()).unwrap();
                app.stop().await;
                let app = App::start(&text).await;
                self.shared.data.send_replace(app.data);
                self.app = Some(app);
            }
            Event::Heal => self.heal().await,
        }
    }

    /// All is well again; the orders to move stay.
    async fn heal(&mut self) {
        for (name, mac) in ["m1", "m2"].iter().zip(&self.macs) {
            self.fake.path_found(name);
            self.fake.wake(name);
            self.fake.far(name, Duration::ZERO);
            serve(&self.fake, name, mac);
        }
        self.fake.relay_back();
        for name in ["m1", "m2"] {
            let [well, drained] = drain(name);
            self.edit(&drained, &well).await;
        }
    }

    /// Changes the file, if there is something to change, and waits until that is in force.
    async fn edit(&self, from: &str, to: &str) {
        let app = self.app.as_ref().unwrap();
        if !std::fs::read_to_string(app.file()).unwrap().contains(from) {
            return;
        }
        let generation = || async { app.status().await["config"]["generation"].as_u64() };
        let before = generation().await;
        app.edit(|text| text.replace(from, to));
        while generation().await == before {
            really(2 * MS).await;
        }
    }
}

fn serve(fake: &Tailscaled, name: &str, mac: &Ledger) {
    for port in [6333, 11434] {
        fake.serve(name, port, mac.place);
    }
}

/// The line of a backend as it is, and drained.
fn drain(name: &str) -> [String; 2] {
    let well = format!("backends.{name} = {{}}");
    let drained = format!("backends.{name}.drain.reason = \"upgrade\"");
    [well, drained]
}

/// What all worlds came to.
#[derive(Debug, Default)]
struct Tally {
    writes: usize,
    fates: BTreeMap<Fate, usize>,
    events: BTreeMap<Event, usize>,
    applied: usize,
    not_applied: usize,
    refused: usize,
    unknown: usize,
    unknown_and_applied: usize,
    no_answer: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.writes += other.writes;
        for (fate, times) in other.fates {
            *self.fates.entry(fate).or_default() += times;
        }
        for (event, times) in other.events {
            *self.events.entry(event).or_default() += times;
        }
        self.applied += other.applied;
        self.not_applied += other.not_applied;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unknown_and_applied += other.unknown_and_applied;
        self.no_answer += other.no_answer;
    }
}

/// One world, from a seed alone.
async fn world(seed: u64) -> Tally {
    let _told = Told(seed);
    let mut dice = Dice(seed);
    let fates = (0..CLIENTS * EACH).map(|_| match dice.roll(2) {
        0 => Fate::Applied,
        _ => dice.of(&FATES),
    });
    let fates: Vec<_> = fates.collect();
    let mut world = World::start(fates.clone()).await;
    // All are probed by then.
    sleep(SECOND).await;
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for which in 0..CLIENTS {
        clients.spawn(client(Arc::clone(&world.shared), seed, which));
    }
    let mut events = Vec::new();
    for _ in 0..EVENTS {
        let at = dice.roll(STORM);
        events.push((at, dice.of(&FAULTS)));
        events.push((at + 100 + dice.roll(1_500), Event::Heal));
    }
    events.sort_unstable();
    let mut tally = Tally::default();
    for (at, event) in events {
        sleep_until(begin + MS * u32::try_from(at).unwrap()).await;
        world.suffers(event).await;
        *tally.events.entry(event).or_default() += 1;
    }
    let outcomes: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    world.heal().await;
    world.app.take().unwrap().stop().await;
    for mac in &world.macs {
        mac.all_closed().await;
    }
    for outcome in &outcomes {
        judge(outcome, fates[outcome.number], &world, seed, &mut tally);
    }
    tally
}

/// What is true of a write.
struct Truth {
    fate: Fate,
    /// Whether any of it came to a Mac.
    came: bool,
    /// Where it was applied.
    applied: Option<&'static str>,
}

/// Holds what the Macs have of a write against what was sent, and the answer against both.
fn judge(outcome: &Outcome, fate: Fate, world: &World, seed: u64, tally: &mut Tally) {
    let of = |mac: &Ledger| mac.entries().get(&outcome.number).cloned();
    let entries = [of(&world.macs[0]), of(&world.macs[1])].map(Option::unwrap_or_default);
    let [came, applied] = [
        [entries[0].came, entries[1].came],
        [entries[0].applied, entries[1].applied],
    ];
    let case = format!(
        "seed {seed}, write {}, {fate:?}: came {came:?}, applied {applied:?}, said {:?}",
        outcome.number, outcome.said
    );
    assert!(outcome.took <= BOUND, "{:?} {case}", outcome.took);
    assert!(came[0] + came[1] <= 1, "sent twice: {case}");
    assert!(applied[0] + applied[1] <= 1, "applied twice: {case}");
    for (machine, entry) in entries.iter().enumerate() {
        assert!(entry.came == 0 || outcome.owners[machine], "moved: {case}");
        if let Some((method, target, body)) = &entry.read {
            let sent = &outcome.write;
            assert_eq!((&**method, target), (sent.method, &sent.target), "{case}");
            assert!(*body == sent.body, "another body: {case}");
        }
    }
    let truth = Truth {
        fate,
        came: came[0] + came[1] > 0,
        applied: (["m1", "m2"].into_iter().zip(applied))
            .find_map(|(name, applied)| (applied > 0).then_some(name)),
    };
    tally.writes += 1;
    *tally.fates.entry(fate).or_default() += usize::from(truth.came);
    if let Some(said) = &outcome.said {
        judge_answer(said, &truth, &case, tally);
    } else {
        // tailhop stopped, and did not take it up.
        assert!(!truth.came, "{case}");
        tally.no_answer += 1;
    }
}

/// Holds one answer against the truth.
fn judge_answer(said: &Said, truth: &Truth, case: &str, tally: &mut Tally) {
    match (said.status, &*said.reason) {
        (200, _) => {
            tally.applied += 1;
            assert_eq!(truth.applied, Some(&*said.backend), "{case}");
            let cut = matches!(truth.fate, Fate::BodyCut | Fate::BodyStalled);
            assert_eq!(said.whole, !cut, "{case}");
        }
        (408 | 429, _) => {
            tally.refused += 1;
            let (status, body, after) = match truth.fate {
                Fate::Limited => (429, LIMITED, Some(RETRY_AFTER)),
                _ => (408, TIMED_OUT, None),
            };
            let told = (said.status, &*said.body, said.retry_after.as_deref());
            assert_eq!(told, (status, body, after), "{case}");
            assert_eq!(truth.applied, None, "{case}");
        }
        (504, "outcome-unknown") => {
            tally.unknown += 1;
            tally.unknown_and_applied += usize::from(truth.applied.is_some());
            assert_eq!(said.retry_after, None, "{case}");
        }
        (503 | 504, _) => {
            tally.not_applied += 1;
            assert!(!truth.came, "{case}");
            assert!(said.status == 504 || said.retry_after.is_some(), "{case}");
            assert!(said.body.contains("othing was sent"), "{case}");
        }
        _ => panic!("{case}"),
    }
}

#[tokio::test(start_paused = true)]
#[expect(clippy::print_stderr, reason = "what it came to, for a person")]
async fn ten_thousand_writes_are_applied_once_or_not_or_said_to_be_unknown() {
    let time = Held::hold();
    let alone = std::env::var("TAILHOP_SEED").ok();
    let alone = alone.map(|seed| vec![seed.parse().unwrap()]);
    let seeds: Vec<u64> = alone.clone().unwrap_or_else(|| (0..WORLDS).collect());
    let mut tally = Tally::default();
    for together in seeds.chunks(TOGETHER) {
        let mut worlds = JoinSet::new();
        for seed in together {
            worlds.spawn(world(*seed));
        }
        let (all, _) = time.run(worlds.join_all()).await;
        for one in all {
            tally.add(one);
        }
    }
    eprintln!("{tally:#?}");
    if alone.is_some() {
        return;
    }
    assert_eq!(tally.writes, 10_000);
    // Else it proves little: each phase was met often, and each answer was given often.
    for fate in FATES {
        assert!(
            tally.fates[&fate] >= 100,
            "{fate:?}: {}",
            tally.fates[&fate]
        );
    }
    for event in FAULTS {
        assert!(tally.events[&event] >= 40, "{event:?}");
    }
    let answers = [
        tally.applied,
        tally.not_applied,
        tally.refused,
        tally.unknown,
    ];
    assert!(answers.iter().all(|many| *many >= 500), "{tally:?}");
    let known = tally.unknown - tally.unknown_and_applied;
    assert!(
        tally.unknown_and_applied >= 100 && known >= 100,
        "{tally:?}"
    );
}
