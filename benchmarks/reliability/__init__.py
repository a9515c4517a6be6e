"""Whether anything is lost: kills, full disks, read-only folders, little memory, two writers."""
