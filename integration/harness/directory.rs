//! A directory: OpenLDAP's slapd with one user.

use super::eventually;
use super::postgres::free_port;
use super::process::{Folder, server_command, spawn};
use super::tls::Certificates;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

/// Where Debian's package puts it.
const SLAPD: &str = "/usr/sbin/slapd";

/// Its entries.
const ENTRIES: &str = "\
dn: dc=example,dc=net
objectClass: top
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: uid=dora,dc=example,dc=net
objectClass: inetOrgPerson
uid: dora
sn: Example
cn: Dora
mail: dora@example.net
userPassword: open sesame

dn: ou=twins,dc=example,dc=net
objectClass: organizationalUnit
ou: twins

dn: cn=one,ou=twins,dc=example,dc=net
objectClass: inetOrgPerson
uid: twin
sn: One
cn: one
userPassword: open sesame

dn: cn=two,ou=twins,dc=example,dc=net
objectClass: inetOrgPerson
uid: twin
sn: Two
cn: two
userPassword: open sesame
";

/// The password of dora, and of the twins.
pub(crate) const PASSWORD: &str = "open sesame";

/// Runs for as long as it lives.
#[derive(Debug)]
pub(crate) struct Directory {
    child: Child,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    _folder: Folder,
}

impl Directory {
    pub(crate) fn start() -> Self {
        let folder = Folder::new("directory");
        let certificates = Certificates::shared();
        let file = |name: &str| certificates.name(name);
        let config = folder.write(
            "slapd.conf",
            &format!(
                "include /etc/ldap/schema/core.schema\n\
                 include /etc/ldap/schema/cosine.schema\n\
                 include /etc/ldap/schema/inetorgperson.schema\n\
                 modulepath /usr/lib/ldap\n\
                 database ldif\n\
                 directory {folder}/data\n\
                 suffix dc=example,dc=net\n\
                 rootdn cn=Manager,dc=example,dc=net\n\
                 rootpw secret\n\
                 access to attrs=userPassword by anonymous auth\n\
                 access to * by dn=cn=Manager,dc=example,dc=net read by anonymous read\n\
                 TLSCACertificateFile {ca}\n\
                 TLSCertificateFile {certificate}\n\
                 TLSCertificateKeyFile {key}\n",
                folder = folder.path().display(),
                ca = file("ca.crt"),
                certificate = file("localhost.crt"),
                key = file("localhost.key"),
            ),
        );
        let entries = folder.write("entries.ldif", ENTRIES);
        let mut make = server_command(Path::new("mkdir"), "KILL");
        make.arg(folder.path().join("data"));
        let mut fill = server_command(Path::new("/usr/sbin/slapadd"), "KILL");
        fill.arg("-f").arg(&config).arg("-l").arg(&entries);
        for mut command in [make, fill] {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let ended = spawn(command).wait().expect("it ends");
            assert!(ended.success(), "the directory is filled");
        }
        let (port, tls_port) = (free_port(), free_port());
        let mut command = server_command(Path::new(SLAPD), "KILL");
        let urls = format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}");
        command
            .arg("-f")
            .arg(&config)
            .args(["-h", &urls, "-d", "0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(command);
        eventually("slapd listens", || {
            let reached = TcpStream::connect(("127.0.0.1", tls_port));
            reached.map(drop).map_err(|error| error.to_string())
        });
        Self {
            child,
            port,
            tls_port,
            _folder: folder,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
