//! A store on a simulated disk, stopped at every single operation that changes the disk, then killed or cut off from
//! power, and opened again: what was acknowledged is there, what was removed is not, and what a recovery has shown
//! survives the next power cut.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use orset::crdt::{Element, OpBody, Tag};
use orset::sim::slot::SMALL;
use orset::storage::disk::{DiskFault, MemDisk};
use orset::storage::{IndexSource, MemorySource, NoIndex, Recovery, Store, StoreError, StoreLimits};
use support::on_disk::{DIR, options};

fn open(disk: &MemDisk, seed: u128, source: &mut dyn IndexSource) -> Result<(Store, Recovery), StoreError> {
    let limits = StoreLimits { index_slack_bytes: 4 << 20, ..SMALL };
    Store::open(options(disk, seed << 64, limits), source)
}

/// tag → element of everything live.
type Live = BTreeMap<Tag, String>;

fn live(store: &Store) -> Live {
    store.records(&[]).map(Result::unwrap).map(|r| (r.tag(), r.element().as_str().to_owned())).collect()
}

/// What a client may rely on.
#[derive(Clone, Default)]
struct Acknowledged {
    live: Live,
    /// The change that was under way: after a crash it may have happened or not.
    doubtful_add: Option<String>,
    doubtful_removal: Vec<Tag>,
    compactions: u32,
}

impl Acknowledged {
    fn check(&self, found: &Live, context: &str) {
        for (tag, element) in &self.live {
            let there = found.get(tag) == Some(element);
            assert!(
                there || self.doubtful_removal.contains(tag),
                "{context}: {element} {tag} was acknowledged and is lost"
            );
        }
        let news: Vec<_> = found.iter().filter(|(tag, _)| !self.live.contains_key(tag)).collect();
        let explained = news.iter().all(|(_, element)| Some(*element) == self.doubtful_add.as_ref());
        assert!(explained && news.len() <= 1, "{context}: {news:?} came from nowhere or returned");
        let removed = self.doubtful_removal.iter().filter(|tag| !found.contains_key(tag)).count();
        assert!(removed == 0 || removed == self.doubtful_removal.len(), "{context}: half a removal");
    }
}

/// Adds, removes, commits and compactions until the disk stops (or to the end).
fn work(store: &mut Store, known: &mut Acknowledged, steps: u64) -> Result<(), StoreError> {
    for n in 0..steps {
        let name = format!("\"element {}\"", n * 7 % 10);
        let element = Element::from_canonical(name.as_bytes());
        if n % 3 == 2 {
            let tags = store.tags(&element)?;
            if !tags.is_empty() {
                known.doubtful_removal = tags.clone();
                store.append_local(OpBody::Remove { element, tags });
            }
        } else {
            known.doubtful_add = Some(name.clone());
            let tag = store.append_local(OpBody::Add(element));
            store.commit()?;
            known.live.insert(tag, name);
            known.doubtful_add = None;
        }
        store.commit()?;
        for tag in std::mem::take(&mut known.doubtful_removal) {
            known.live.remove(&tag);
        }
        feed_index(store);
        if let Some(plan) = store.plan_compaction()? {
            let snapshot = plan.run()?;
            store.install(snapshot)?;
            known.compactions += 1;
        }
    }
    Ok(())
}

/// What the index's thread does.
fn feed_index(store: &mut Store) {
    for batch in store.take_feed() {
        let index = store.index().expect("only an index is fed");
        index.apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    store.maintain();
}

fn sources() -> [Box<dyn IndexSource>; 2] {
    [Box::new(NoIndex), Box::new(MemorySource)]
}

#[test]
fn stopped_at_every_change_of_the_disk_nothing_acknowledged_is_lost_and_nothing_removed_returns() {
    const STEPS: u64 = 60;
    let mut states = 0;
    for stop in 1.. {
        let disk = MemDisk::default();
        disk.stop_at(stop);
        let mut known = Acknowledged::default();
        let outcome = open(&disk, 1, &mut MemorySource).and_then(|(mut store, _)| {
            work(&mut store, &mut known, STEPS)?;
            store.close(None)
        });
        let crashes: Vec<MemDisk> =
            std::iter::once(disk.after_kill()).chain((0..4).map(|n| disk.after_power_cut(n))).collect();
        for (n, crashed) in crashes.iter().enumerate() {
            states += 1;
            recover_and_go_on(crashed, &known, &format!("stop {stop}, crash {n}"));
        }
        if outcome.is_ok() {
            assert!(stop > 200, "the work changed the disk {stop} times only");
            assert!(known.compactions > 2, "{} compactions", known.compactions);
            println!("{states} states after {} stops", stop - 1);
            return;
        }
    }
}

fn recover_and_go_on(disk: &MemDisk, known: &Acknowledged, context: &str) {
    for mut source in sources() {
        let disk = disk.after_kill();
        let (mut store, _) = open(&disk, 2, source.as_mut()).unwrap_or_else(|e| panic!("{context}: {e}"));
        let found = live(&store);
        known.check(&found, context);
        // Peers and clients may now hear of everything that was found: it must survive a power cut.
        drop(store);
        let again = disk.after_power_cut(0);
        (store, _) = open(&again, 3, source.as_mut()).unwrap_or_else(|e| panic!("{context}, again: {e}"));
        assert_eq!(live(&store), found, "{context}: a power cut took away what a recovery had shown");
        let mut known = Acknowledged { live: found, ..Acknowledged::default() };
        work(&mut store, &mut known, 12).unwrap();
        store.close(None).unwrap();
        let (store, recovery) = open(&again.after_power_cut(0), 4, source.as_mut()).unwrap();
        assert!(recovery.clean, "{context}");
        assert_eq!(live(&store), known.live, "{context}: after going on");
    }
}

#[test]
fn a_crash_at_every_change_during_recovery_loses_nothing_either() {
    let disk = MemDisk::default();
    let mut known = Acknowledged::default();
    let (mut store, _) = open(&disk, 1, &mut NoIndex).unwrap();
    work(&mut store, &mut known, 40).unwrap();
    // The last frame is written, but its sync does not return: nobody has heard of it, and it may be there.
    disk.stop_at(disk.changes() + 2);
    known.doubtful_add = Some("\"last\"".into());
    store.append_local(OpBody::Add(Element::from_canonical(b"\"last\"")));
    assert!(store.commit().is_err());
    let crashed = disk.after_kill();
    for stop in 1.. {
        let second = crashed.after_kill();
        second.stop_at(stop);
        let recovered = open(&second, 2, &mut NoIndex).is_ok();
        for cut in 0..8 {
            let third = if cut == 7 { second.after_kill() } else { second.after_power_cut(cut) };
            recover_and_go_on(&third, &known, &format!("stop {stop} in recovery, cut {cut}"));
        }
        if recovered {
            assert!(stop > 5);
            break;
        }
    }
}

#[test]
fn a_failed_sync_poisons_the_store_for_good() {
    let disk = MemDisk::default();
    let (mut store, _) = open(&disk, 1, &mut NoIndex).unwrap();
    let mut known = Acknowledged::default();
    work(&mut store, &mut known, 3).unwrap();
    disk.set_failing_syncs(true);
    store.append_local(OpBody::Add(Element::from_canonical(b"1")));
    assert!(store.commit().is_err());
    disk.set_failing_syncs(false);
    assert!(matches!(store.commit(), Err(StoreError::Poisoned)), "a second sync proves nothing");
    assert!(matches!(store.set_read_form(orset::storage::ReadForm::Messages), Err(StoreError::Poisoned)));
}

/// Found by the simulation: a store whose closing had failed took further commits.
#[test]
fn a_store_that_could_not_be_closed_takes_nothing_more() {
    let disk = MemDisk::default();
    let (mut store, _) = open(&disk, 1, &mut NoIndex).unwrap();
    work(&mut store, &mut Acknowledged::default(), 3).unwrap();
    disk.inject(DiskFault::ShortWrite, 0);
    assert!(store.close(None).is_err());
    store.append_local(OpBody::Add(Element::from_canonical(b"1")));
    assert!(matches!(store.commit(), Err(StoreError::Poisoned)));
}

#[test]
fn on_a_full_disk_the_store_stops_and_still_starts() {
    let disk = MemDisk::default();
    let mut known = Acknowledged::default();
    let (mut store, _) = open(&disk, 1, &mut NoIndex).unwrap();
    work(&mut store, &mut known, 5).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 300));
    let error = work(&mut store, &mut known, 100).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    let mut disk = disk;
    for restart in 0..20 {
        disk = disk.after_kill();
        let (store, _) = open(&disk, 2 + restart, &mut NoIndex).unwrap_or_else(|e| panic!("restart {restart}: {e}"));
        known.check(&live(&store), "on the full disk");
    }
    disk.remove_reserve();
    disk.set_capacity(Some(disk.used_bytes()));
    let before = disk.files();
    assert!(open(&disk, 99, &mut NoIndex).is_err(), "there is no room at all");
    assert_eq!(disk.files(), before, "and then nothing changes");
}

/// Found by the simulation: only the manifest is written then.
#[test]
fn a_start_on_a_full_disk_after_a_clean_stop_may_find_no_index() {
    let disk = MemDisk::default();
    let mut known = Acknowledged::default();
    let (mut store, _) = open(&disk, 1, &mut MemorySource).unwrap();
    work(&mut store, &mut known, 5).unwrap();
    let position = store.index().unwrap().position();
    store.close(Some(position)).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let (store, recovery) = open(&disk, 2, &mut MemorySource).unwrap();
    assert!(recovery.clean);
    known.check(&live(&store), "on the full disk");
}

trait RemoveReserve {
    fn remove_reserve(&self);
}

impl RemoveReserve for MemDisk {
    fn remove_reserve(&self) {
        orset::storage::disk::Disk::remove(self, &Path::new(DIR).join("reserve")).unwrap();
    }
}

/// Found by the simulation: a start after a clean stop writes nothing, so it took over a manifest whose directory had
/// not been synced, and removed what the manifest before it named.
#[test]
fn nothing_goes_that_a_manifest_may_name_which_comes_back_with_a_power_cut() {
    let disk = MemDisk::default();
    let mut store = open(&disk, 1, &mut NoIndex).unwrap().0;
    let add = |store: &mut Store, n: u32| {
        store.append_local(OpBody::Add(Element::from_canonical(format!("\"element {n}\"").as_bytes())));
        store.commit()
    };
    for n in 0..100 {
        add(&mut store, n).unwrap();
    }
    let acknowledged = live(&store);
    store.close(None).unwrap();
    drop(store);

    // Killed between the new manifest's rename and the sync of its directory.
    let mut store = open(&disk, 2, &mut NoIndex).unwrap().0;
    let snapshot = store.plan_compaction().unwrap().expect("there is much to compact").run().unwrap();
    disk.stop_at(disk.changes() + 5);
    assert!(store.install(snapshot).is_err());
    let disk = disk.after_kill();

    // Then the power goes after a new segment has got its name, and with it the directory of the log was synced.
    let mut store = open(&disk, 3, &mut NoIndex).unwrap().0;
    disk.stop_at(disk.changes() + 6);
    assert!(add(&mut store, 100).is_err());
    let store = open(&disk.after_power_cut(0), 4, &mut NoIndex).unwrap().0;
    assert_eq!(live(&store), acknowledged);
}
