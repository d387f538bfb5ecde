//! The device list.

use std::collections::HashSet;
use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dmverbs_ffi::{Class, Errno, Handle, MinusOne, OrZero, Out, Ptr, Void, entry};
use dmverbs_provider::object;
use rdma_core_sys::verbs::{IBV_NODE_CA, IBV_TRANSPORT_IB, ibv_device};

/// `struct ibv_device`, and zeroes behind it: the vendor libraries' mlx5dv_is_supported() and its like read
/// their own structure there to see whose device it is.
#[repr(C)]
pub struct Padded {
    device: ibv_device,
    padding: [u64; 128],
}

/// `ibv_device`.
#[derive(Debug)]
pub enum DeviceClass {}

// SAFETY: arrays, integers and optional functions may be zero; `device` comes first.
unsafe impl Class for DeviceClass {
    type C = Padded;
    type Seen = ibv_device;
    type Inner = Listed;
    const NAME: &'static str = "ibv_device";
}

/// A device that some list has named. It stays for the life of the process, so that no program can hold a
/// stale pointer to it; there are as many as the machine has had interfaces.
#[derive(Debug)]
pub struct Listed {
    name: String,
    /// As the latest scan found it.
    latest: Mutex<Arc<object::Device>>,
}

impl Listed {
    /// The provider's device.
    pub fn latest(&self) -> Arc<object::Device> {
        lock(&self.latest).clone()
    }
}

type Device = Handle<DeviceClass>;

entry! {
    /// ibv_get_device_list(3)
    pub fn ibv_get_device_list(num_devices: Option<Out<'_, c_int>>) -> Ptr<*mut ibv_device> {
        let mut num_devices = num_devices;
        num_devices.iter_mut().for_each(|count| count.set(0));
        dmverbs_ffi::log::start()?;
        let devices = object::devices().map_err(|e| Errno::from(e).loud())?;
        let devices: Vec<_> = devices.into_iter().map(listed).collect();
        if let Some(mut count) = num_devices {
            count.set(c_int::try_from(devices.len()).unwrap_or(c_int::MAX));
        }
        let list: Box<[_]> = devices.into_iter().chain([std::ptr::null_mut()]).collect();
        let list = Box::into_raw(list);
        lock(&LISTS).get_or_insert_default().insert((list.cast::<*mut ibv_device>().addr(), list.len()));
        Ok(list.cast())
    }

    /// ibv_get_device_list(3)
    pub fn ibv_free_device_list(list: *mut *mut ibv_device) -> Void {
        let mut lists = lock(&LISTS);
        let known = lists.as_ref().and_then(|lists| lists.iter().find(|(at, _)| *at == list.addr()).copied());
        let Some((at, len)) = known else {
            return Err(Errno::misuse("`list` is no device list, or was freed before"));
        };
        lists.get_or_insert_default().remove(&(at, len));
        let slice = std::ptr::slice_from_raw_parts_mut(list, len);
        // SAFETY: made by `Box::into_raw` with this length, and just taken off the register.
        drop(unsafe { Box::from_raw(slice) });
        Ok(())
    }

    /// ibv_get_device_name(3)
    pub fn ibv_get_device_name(device: &Device) -> Ptr<c_char> {
        // SAFETY: `c` points at a `Padded` that is never freed; only the address of a field is taken.
        Ok(unsafe { &raw mut (*device.c()).device.name }.cast())
    }

    /// ibv_get_device_index(3): there is no kernel device, so the interface's index serves.
    pub fn ibv_get_device_index(device: &Device) -> MinusOne {
        Ok(c_int::try_from(device.latest().ifindex()).unwrap_or(-1))
    }

    /// ibv_get_device_guid(3), in network order
    pub fn ibv_get_device_guid(device: &Device) -> OrZero<u64> {
        Ok(u64::from_ne_bytes(device.latest().guid()))
    }
}

/// The C object of a device that a scan has found: the same for the same interface each time. One that was made anew under
/// the name of another is another: what C reads of a device never changes.
fn listed(device: Arc<object::Device>) -> *mut ibv_device {
    let mut known = lock(&KNOWN);
    let (name, ifindex) = (device.name().to_owned(), device.ifindex());
    let old = known.iter().find_map(|&seen| {
        let seen = std::ptr::with_exposed_provenance_mut(seen);
        Device::find(seen, "device").ok().filter(|listed| listed.name == name && listed.latest().ifindex() == ifindex)
    });
    if let Some(old) = old {
        *lock(&old.latest) = device;
        return old.seen();
    }
    let mut new = Device::reserve();
    let c = &mut new.c().device;
    c.node_type = IBV_NODE_CA;
    c.transport_type = IBV_TRANSPORT_IB;
    let uverbs = format!("uverbs{ifindex}");
    fill(&mut c.name, &name);
    fill(&mut c.dev_name, &uverbs);
    fill(&mut c.dev_path, &format!("/sys/class/infiniband_verbs/{uverbs}"));
    fill(&mut c.ibdev_path, &format!("/sys/class/infiniband/{name}"));
    let seen = new.commit(Listed { name, latest: Mutex::new(device) });
    known.push(seen.expose_provenance());
    seen
}

/// Copies a name, cut to leave room for its NUL.
fn fill(field: &mut [c_char], name: &str) {
    let room = field.len() - 1;
    for (to, from) in field[..room].iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Addresses of all devices ever listed.
static KNOWN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// Lists that have not been freed: address and length.
static LISTS: Mutex<Option<HashSet<(usize, usize)>>> = Mutex::new(None);
