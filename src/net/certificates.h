// Who a party is: a key (P-256) and a certificate with its role as common name and its own name as organisation. Providers and
// helpers sign their own certificate and are known by their key, so that a renewed certificate is the same party; a user's is
// signed by its provider, and known by its key too: one certificate can be written in more than one way, since (r, s) and (r, -s) are
// both signatures of the same text.
#pragma once

#include <openssl/types.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "permllm/error.h"

namespace permllm {

// 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit: it is part of file names.
bool is_party_name(std::string_view name);

class Certificate {
 public:
  // Errors: file, when the PEM text is no certificate, or `x509` names no role or no name; `field` says where it comes from.
  static Certificate parse(std::string_view pem, const std::string& field);
  static Certificate of(X509* x509, const std::string& field);

  Role role() const { return role_; }
  const std::string& name() const { return name_; }
  std::string pin() const;  // SHA-256 of the public key (SubjectPublicKeyInfo), 64 hex digits
  std::string pem() const;
  std::string last_day() const;  // 2027-01-31
  int days_left() const;         // whole ones until it ends; negative once it has
  bool begun() const;
  bool ended() const;
  // Its signature is of that certificate's key.
  bool signed_by(const Certificate& issuer) const;
  X509* get() const { return x509_.get(); }

 private:
  std::shared_ptr<X509> x509_;
  Role role_ = Role::user;
  std::string name_;
};

struct Identity {
  Certificate certificate;
  std::shared_ptr<EVP_PKEY> key;
};

// A new key with a certificate for that many days: of a provider or helper, signed by itself; of a user, by its provider.
Identity make_identity(Role role, const std::string& name, int days);
Identity make_user(const Identity& provider, const std::string& name, int days);
// The same key, role and name with a new certificate. Of a provider or helper.
Identity renewed(const Identity& identity, int days);

// The key as PEM text, from which the caller takes care to keep others, and back. Errors: file, naming `field`, when it is no key
// or not the certificate's.
std::string key_pem(const Identity& identity);
Identity identity_of(const Certificate& certificate, std::string_view key_pem, const std::string& field);

// The other end of a link.
struct Peer {
  Role role = Role::user;
  std::string name;
  std::string key;       // Certificate::pin(): what a party is known by
  std::string provider;  // of a provider, its own key; of a user, that of the provider who issued its certificate
};

// Whom a party accepts at the other end of a link.
struct Trust {
  struct Pin {
    Role role;
    std::string key;  // Certificate::pin()
  };
  std::vector<Pin> pins;             // providers and helpers
  std::vector<Certificate> issuers;  // providers whose users are accepted
  // Asked for users whose certificate is in order: why they are not let in all the same; empty if they are. May be null.
  std::function<std::string(const Peer&)> withdrawn;
  // Of users, in place of their certificate's end: the day on which the invite ended, empty if it has not. Null: the certificate says.
  std::function<std::string(const Peer&)> ended = nullptr;

  struct Verdict {
    Peer peer;
    std::string reason;  // why the certificate is refused; empty when it is accepted
    int x509_error = 0;  // X509_V_OK, or the error whose TLS alert tells the peer
  };
  Verdict judge(const Certificate& certificate) const;
};

struct Credentials {
  Identity identity;
  Trust trust;
};

}  // namespace permllm
