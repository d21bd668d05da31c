//! What has been found out already. States are many, but they are made of few parts: a replica that has lived through something
//! is in millions of them. So each part is kept once, under a number, and what follows from parts alone is worked out once:
//!
//! - what a step makes of a replica: it depends on the replica, and on what arrives;
//! - that a replica has what follows from what it holds, and that a real one to which the same has happened has the same;
//! - what one holds that has caught up with another.
//!
//! So whatever those depend on must be in the part's name: [`site_name`] has all that a replica is, the content of every
//! operation that it holds or will hold by a state delta under way included.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use orset::crdt::{Dot, Op, OpBody, Seq, Tag, Verdict, VersionVector};

use super::bridge::Bridge;
use super::oracle::{Meaning, Oracle};
use super::past::{self, Past};
use super::real::Answer;
use super::rules::Rules;
use super::scope::Scope;
use super::search::Checks;
use super::site::{History, Place, Site, Step};
use super::table::{Number, Table};
use super::view::{Names, least_name, site_names};
use super::world::{Action, Left, World};

/// See the module's text.
pub struct Memory<'a> {
    scope: Scope,
    rules: &'a dyn Rules,
    checks: Checks,
    bridge: Bridge,
    sites: Table<Known>,
    pasts: Table<Past>,
    arriving: Table<()>,
    vectors: Table<VersionVector>,
    /// What becomes of a site, and of the past; nothing if nothing does.
    steps: HashMap<(Number, Cause), Option<(Number, Change)>>,
    grown: HashMap<(Number, Number), Number>,
    made: Table<(Vec<Op>, Meaning)>,
    joined: HashMap<(Number, Number), Number>,
    /// Sites that were asked for lately: they are large, and can be had again.
    lately: HashMap<Number, Arc<Site>>,
    /// Replicas that catch up; they need not be in any state.
    patients: Table<Patient>,
    caught_up: HashMap<(Number, Number), Number>,
    patient_of: HashMap<Number, Number>,
}

/// So many sites are kept as they are.
const MAX_LATELY: usize = 50_000;

/// What a step at a site depends on besides the site.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Cause {
    Add(u8),
    Remove(u8),
    Arrives(Number),
    Compacts,
    Pulls(Number),
    NextPart,
    Crashes,
    IsWiped,
}

/// What a step adds to the past: the number of what was made.
type Change = Option<Number>;

/// How a site can be had again, and what is asked of it often.
struct Known {
    place: Place,
    first_life: u8,
    history: History,
    names: Names,
    vector: Number,
    /// Which elements a remove would see.
    sees: [bool; 2],
    /// Whether a snapshot would have something that the newest one has not.
    has_news: bool,
    receives: bool,
    /// The vector of the snapshot that it may send.
    offers: Option<VersionVector>,
}

/// A replica that catches up, as far as that depends on it: what it holds. What it has follows from that; it has been looked
/// at.
struct Patient {
    place: Place,
    vector: Number,
}

impl<'a> Memory<'a> {
    /// Nothing is known yet.
    pub fn new(scope: Scope, rules: &'a dyn Rules, checks: Checks) -> Self {
        Self {
            scope,
            rules,
            checks,
            bridge: Bridge::default(),
            sites: Table::default(),
            pasts: Table::default(),
            arriving: Table::default(),
            vectors: Table::default(),
            steps: HashMap::new(),
            grown: HashMap::new(),
            made: Table::default(),
            joined: HashMap::new(),
            lately: HashMap::new(),
            patients: Table::default(),
            caught_up: HashMap::new(),
            patient_of: HashMap::new(),
        }
    }

    /// Three empty stores.
    ///
    /// # Errors
    /// In words, if they are not.
    pub fn start(&mut self) -> Result<World, String> {
        let past = self.past(BTreeMap::new(), Oracle::default());
        let Scope { changes, faults, snapshots, joins, .. } = self.scope;
        let mut sites = [0; 3];
        for (place, number) in sites.iter_mut().enumerate() {
            *number = self.site(Site::new(place, 0), past)?;
        }
        Ok(World { sites, past, left: Left { changes, faults, snapshots, joins } })
    }

    /// What real replicas were asked.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// How many states of one replica there are.
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// The name of a state: that of all that differ from it only in names of places and elements.
    pub fn name(&self, world: &World) -> u128 {
        let Left { changes, faults, snapshots, joins } = world.left;
        let rest = u32::from_le_bytes([changes, faults, snapshots, joins]);
        least_name(world.sites.map(|site| &self.sites.get(site).names), &self.pasts.get(world.past).names, rest)
    }

    /// All that may happen next.
    pub fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        let sites = world.sites.map(|site| &**self.sites.get(site));
        for (place, site) in sites.into_iter().enumerate() {
            if world.left.changes > 0 {
                for number in 0..2 {
                    actions.push(Action::Add(place, number));
                    // A remove that sees nothing writes nothing.
                    if site.sees[usize::from(number)] {
                        actions.push(Action::Remove(place, number));
                    }
                }
            }
            // Also what is held already, and what has been made here.
            let arrivals = &self.pasts.get(world.past).arrivals;
            actions.extend(arrivals.iter().map(|arrival| Action::Arrives(place, arrival.dot, arrival.number)));
            if world.left.snapshots > 0 && !site.receives && site.has_news {
                actions.push(Action::Compacts(place));
            }
            let held = self.vectors.get(site.vector);
            if site.receives {
                actions.push(Action::NextPart(place));
            } else if world.left.joins > 0 {
                let offers = |from: &Place| sites[*from].offers.as_ref().is_some_and(|vv| !vv.is_within(held));
                let others = (0..3).filter(|from| *from != place && offers(from));
                actions.extend(others.map(|from| Action::Pulls(place, from)));
            }
            if world.left.faults > 0 && (!held.is_empty() || site.receives) {
                actions.push(Action::Crashes(place));
                actions.push(Action::IsWiped(place));
            }
        }
        actions
    }

    /// The state after an action; `None` if it changes nothing.
    ///
    /// # Errors
    /// In words, if what must hold does not hold there.
    pub fn after(&mut self, world: &World, action: Action) -> Result<Option<World>, String> {
        let cause = match action {
            Action::Add(_, number) => Cause::Add(number),
            Action::Remove(_, number) => Cause::Remove(number),
            Action::Arrives(.., number) => Cause::Arrives(number),
            Action::Compacts(_) => Cause::Compacts,
            Action::Pulls(_, from) => Cause::Pulls(world.sites[from]),
            Action::NextPart(_) => Cause::NextPart,
            Action::Crashes(_) => Cause::Crashes,
            Action::IsWiped(_) => Cause::IsWiped,
        };
        let key = (world.sites[action.place()], cause);
        let step = match self.steps.get(&key) {
            Some(known) => *known,
            None => {
                let step = self.step(world, action)?;
                self.steps.insert(key, step);
                step
            }
        };
        let Some((site, change)) = step else { return Ok(None) };
        let mut next = World { left: world.left.after(action), ..*world };
        next.sites[action.place()] = site;
        if let Some(made) = change {
            next.past = self.grown(world.past, made)?;
        }
        Ok(Some(next))
    }

    /// Whether an action has completed a state delta.
    pub fn joins(&self, before: &World, action: Action, after: &World) -> bool {
        let receives = |world: &World| self.sites.get(world.sites[action.place()]).receives;
        matches!(action, Action::NextPart(_)) && receives(before) && !receives(after)
    }

    fn step(&mut self, world: &World, action: Action) -> Result<Option<(Number, Change)>, String> {
        let place = action.place();
        let before = self.again(world.sites[place]);
        let past = Arc::clone(self.pasts.get(world.past));
        let mut site = Site::clone(&before);
        let mut change = None;
        match action {
            Action::Add(_, number) => {
                let made = site.step(self.rules, Step::Add(number));
                change = Some(self.made(made, Meaning::Add(number)));
            }
            Action::Remove(_, number) => {
                let seen = past.oracle.seen(&site.state.vv, number);
                let made = site.step(self.rules, Step::Remove(number));
                names_what_was_seen(&made, &seen)?;
                change = Some(self.made(made, Meaning::Remove(seen)));
            }
            Action::Arrives(_, dot, _) => {
                arrives(&mut site, self.rules, &past.ops, dot);
                if site.history.is(&before.history) {
                    return Ok(None);
                }
            }
            Action::Compacts(_) => drop(site.step(self.rules, Step::Compact)),
            Action::Pulls(_, from) => self.pulls(&mut site, world.sites[place], world.sites[from])?,
            Action::NextPart(_) => drop(site.step(self.rules, Step::Part)),
            Action::Crashes(_) => {
                let life = site.life + 1;
                site.step(self.rules, Step::Restart(life));
            }
            Action::IsWiped(_) => site = Site::new(place, self.rules.life_after_wipe(site.life)),
        }
        let after = change.map_or(Ok(world.past), |made| self.grown(world.past, made))?;
        Ok(Some((self.site(site, after)?, change)))
    }

    /// The site with that number.
    fn again(&mut self, number: Number) -> Arc<Site> {
        if let Some(site) = self.lately.get(&number) {
            return Arc::clone(site);
        }
        let known = self.sites.get(number);
        let site = Arc::new(Site::after(known.place, known.first_life, &known.history, self.rules));
        self.keep(number, Arc::clone(&site));
        site
    }

    fn keep(&mut self, number: Number, site: Arc<Site>) {
        if self.lately.len() >= MAX_LATELY {
            self.lately.clear();
        }
        self.lately.insert(number, site);
    }

    /// A real receiver pulls the newest snapshot of a real sender. All of it is under way then, and may arrive late.
    fn pulls(&mut self, site: &mut Site, number: Number, from: Number) -> Result<(), String> {
        let (sender, vector) = (self.again(from), self.sites.get(number).vector);
        let delta = self.bridge.pulled((from, &sender), site, vector)?;
        let claimed = self.rules.claimed(&delta.vv, &sender.state.vv);
        site.step(self.rules, Step::Pull(delta, claimed));
        Ok(())
    }

    /// From here everybody can catch up with everybody: each pulls from the two others, by whatever they answer to its
    /// digest, and then holds all that anybody holds.
    ///
    /// # Errors
    /// In words, if somebody does not, or has another set than follows from it.
    pub fn heals(&mut self, world: &World) -> Result<(), String> {
        let [one, two, three] = world.sites.map(|site| self.sites.get(site).vector);
        let two = self.join(one, two);
        let all = self.join(two, three);
        for place in 0..3 {
            let who = || format!("n{}, when all faults have ceased", place + 1);
            let mut patient = self.patient_of(world.sites[place], world.past)?;
            for from in (0..3).filter(|from| *from != place) {
                let caught_up = self.catches_up(patient, world.sites[from], world.past);
                patient = caught_up.map_err(|why| format!("{}: {why}", who()))?;
            }
            let vector = self.patients.get(patient).vector;
            if vector != all {
                let [held, all] = [vector, all].map(|vector| self.vectors.get(vector));
                return Err(format!("{}, holds {held:?}, and there is {all:?}", who()));
            }
        }
        Ok(())
    }

    /// A site whose state delta has been given up.
    fn patient_of(&mut self, site: Number, past: Number) -> Result<Number, String> {
        if let Some(known) = self.patient_of.get(&site) {
            return Ok(*known);
        }
        let patient = self.again(site);
        let patient = self.patient(&patient, past)?;
        self.patient_of.insert(site, patient);
        Ok(patient)
    }

    /// Pulls until it holds what `from` does: a state delta brings a snapshot, and a delta what came after that.
    fn catches_up(&mut self, patient: Number, from: Number, past: Number) -> Result<Number, String> {
        if let Some(known) = self.caught_up.get(&(patient, from)) {
            return Ok(*known);
        }
        let sender = self.again(from);
        let Patient { place, vector } = **self.patients.get(patient);
        let vv = VersionVector::clone(self.vectors.get(vector));
        let live = self.pasts.get(past).oracle.live(&vv);
        let mut site = Site::holding(place, vv, live);
        for _ in 0..2 {
            if sender.state.vv.is_within(&site.state.vv) {
                break;
            }
            match self.bridge.answer(&sender, &site) {
                Answer::Ops(ops) => {
                    for op in ops {
                        if op.judge(&site.state.vv) != Verdict::Next {
                            return Err(format!("n{} answers with {}, which does not apply", sender.place + 1, op.dot));
                        }
                        site.step(self.rules, Step::Receive(op));
                    }
                }
                Answer::State(delta) => {
                    let (parts, vv) = (delta.parts.len(), delta.vv.clone());
                    site.step(self.rules, Step::Pull(delta, vv));
                    (1..parts).for_each(|_| drop(site.step(self.rules, Step::Part)));
                }
            }
        }
        let healed = self.patient(&site, past)?;
        self.caught_up.insert((patient, from), healed);
        Ok(healed)
    }

    fn patient(&mut self, site: &Site, past: Number) -> Result<Number, String> {
        let past = Arc::clone(self.pasts.get(past));
        past.oracle.check(&site.state.vv, &site.live)?;
        let mut name = vec![u8::try_from(site.place).unwrap()];
        past::vector(&site.state.vv, &mut name);
        past::ops_name(past.ops.values().filter(|op| site.state.vv.covers(op.dot)), &mut name);
        let vector = self.vector(&site.state.vv);
        Ok(self.patients.number(&name, || Patient { place: site.place, vector }))
    }

    /// The number of a site, which is looked at if it is new.
    fn site(&mut self, site: Site, past: Number) -> Result<Number, String> {
        let past = Arc::clone(self.pasts.get(past));
        let name = site_name(&site, &past.ops);
        if let Some(known) = self.sites.find(&name) {
            return Ok(known);
        }
        past.oracle.check(&site.state.vv, &site.live).map_err(|why| format!("n{}: {why}", site.place + 1))?;
        if self.checks.real {
            self.bridge.lives_through(&site)?;
        }
        let known = Known {
            place: site.place,
            first_life: site.first_life,
            history: site.history.clone(),
            names: site_names(&site),
            vector: self.vector(&site.state.vv),
            sees: [0, 1].map(|number| site.live.values().any(|live| *live == number)),
            has_news: !site.state.vv.is_empty() && site.snapshot.as_ref() != Some(&site.state.vv),
            receives: site.receiving.is_some(),
            offers: site.offers().cloned(),
        };
        let number = self.sites.number(&name, || known);
        self.keep(number, Arc::new(site));
        Ok(number)
    }

    fn vector(&mut self, vv: &VersionVector) -> Number {
        let mut name = Vec::new();
        past::vector(vv, &mut name);
        self.vectors.number(&name, || vv.clone())
    }

    fn join(&mut self, one: Number, two: Number) -> Number {
        if let Some(known) = self.joined.get(&(one, two)) {
            return *known;
        }
        let mut vv = VersionVector::clone(self.vectors.get(one));
        vv.join(self.vectors.get(two));
        let joined = self.vector(&vv);
        self.joined.insert((one, two), joined);
        joined
    }

    fn made(&mut self, ops: Vec<Op>, meaning: Meaning) -> Number {
        let mut name = Vec::new();
        past::ops_name(ops.iter(), &mut name);
        self.made.number(&name, || (ops, meaning))
    }

    fn past(&mut self, ops: BTreeMap<Dot, Op>, oracle: Oracle) -> Number {
        let mut name = Vec::new();
        past::ops_name(ops.values(), &mut name);
        let (arriving, lone_starts) = (&mut self.arriving, self.scope.lone_starts);
        self.pasts.number(&name, || Past::new(ops, oracle, lone_starts, arriving))
    }

    fn grown(&mut self, past: Number, made: Number) -> Result<Number, String> {
        if let Some(known) = self.grown.get(&(past, made)) {
            return Ok(*known);
        }
        let (ops, meaning) = &**self.made.get(made);
        let (ops, oracle) = self.pasts.get(past).and(ops, meaning)?;
        let grown = self.past(ops, oracle);
        self.grown.insert((past, made), grown);
        Ok(grown)
    }
}

fn names_what_was_seen(made: &[Op], seen: &BTreeSet<Tag>) -> Result<(), String> {
    for op in made {
        if let OpBody::Remove { tags, .. } = &op.body
            && !seen.iter().eq(tags.iter().collect::<BTreeSet<&Tag>>())
        {
            return Err(format!("a remove names {tags:?}, and its client saw {seen:?}"));
        }
    }
    Ok(())
}

/// An operation arrives; if it is the one after a `Start` that has not come, that comes with it.
fn arrives(site: &mut Site, rules: &dyn Rules, ops: &BTreeMap<Dot, Op>, dot: Dot) {
    if dot.seq == Seq(2) && site.state.vv.get(dot.replica) == Seq(0) {
        site.step(rules, Step::Receive(ops[&Dot::new(dot.replica, Seq(1))].clone()));
    }
    site.step(rules, Step::Receive(ops[&dot].clone()));
}

/// All that a replica's future depends on, as bytes. `ops` are all that there are.
fn site_name(site: &Site, ops: &BTreeMap<Dot, Op>) -> Vec<u8> {
    let mut name = vec![u8::try_from(site.place).unwrap(), site.life];
    name.extend(site.own.map_or(0, |own| own.to_u128() + 1).to_le_bytes());
    for vv in [Some(&site.state.vv), Some(&site.state.floor), site.snapshot.as_ref()] {
        name.push(u8::from(vv.is_some()));
        vv.into_iter().for_each(|vv| past::vector(vv, &mut name));
    }
    for (tag, number) in &site.live {
        past::dot(*tag, &mut name);
        name.push(*number);
    }
    let mut claims = site.state.vv.clone();
    if let Some(receiving) = &site.receiving {
        let delta = &receiving.delta;
        name.extend([0xfd, u8::try_from(delta.from).unwrap(), u8::try_from(receiving.taken).unwrap()]);
        for vv in [&delta.digest, &delta.vv, &receiving.claimed] {
            past::vector(vv, &mut name);
            claims.join(vv);
        }
    }
    name.push(0xfe);
    past::ops_name(ops.values().filter(|op| claims.covers(op.dot)), &mut name);
    name
}
