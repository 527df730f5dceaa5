from __future__ import annotations

import threading
import time

from runtime.recordings.inbox import NOTE_BYTES, Inbox


def test_items_come_in_order_and_the_rest_after_closing():
    inbox: Inbox[int] = Inbox(waits=False)
    assert all(inbox.put(number) for number in range(3))
    inbox.close()
    assert not inbox.put(3)
    assert [inbox.take() for _ in range(4)] == [0, 1, 2, None]


def test_a_camera_loses_pictures_and_keeps_notes():
    inbox: Inbox[object] = Inbox(80 * NOTE_BYTES, waits=False)
    assert inbox.put("large", 1000 * NOTE_BYTES), "alone it is taken, whatever its size"
    assert inbox.take() == "large"
    assert inbox.put("picture", 50 * NOTE_BYTES)
    assert not inbox.put("picture", 40 * NOTE_BYTES)
    notes = sum(inbox.put(number) for number in range(100))
    assert notes == 40, "80 and an eighth more, less the picture's 50"
    assert inbox.take() == "picture"
    assert inbox.put("picture", 40 * NOTE_BYTES)


def test_a_file_waits_for_room():
    inbox: Inbox[str] = Inbox(10, waits=True)
    inbox.put("first", 10)
    done = []
    giver = threading.Thread(target=lambda: done.append(inbox.put("second", 10)))
    giver.start()
    time.sleep(0.05)
    assert not done
    assert inbox.take() == "first"
    giver.join(5)
    assert done == [True]
    giver = threading.Thread(target=lambda: done.append(inbox.put("third", 10)))
    giver.start()
    inbox.close()  # whoever waits is let go
    giver.join(5)
    assert done == [True, False]
