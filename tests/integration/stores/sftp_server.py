"""An SFTP server below one folder: python sftp_server.py PORT FOLDER USER PASSWORD [--without-posix-rename]."""

from __future__ import annotations

import asyncio
import sys

import asyncssh


class _OneUser(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return [username, password] == sys.argv[3:5]


class _Files(asyncssh.SFTPServer):
    def __init__(self, channel: asyncssh.SSHServerChannel) -> None:
        super().__init__(channel, chroot=sys.argv[2])

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        if "--without-posix-rename" in sys.argv:
            raise asyncssh.SFTPOpUnsupported("posix-rename is not offered")
        super().posix_rename(oldpath, newpath)


async def main() -> None:
    await asyncssh.create_server(
        _OneUser,
        "127.0.0.1",
        int(sys.argv[1]),
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=_Files,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
