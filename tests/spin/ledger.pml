/* One chain of offline material, in the ledger of a user (two programs on one folder) and in that of a provider: src/session/ledger.cpp,
   UserClient::take_chain, ProviderChains::open, Burning. Any step may be the last before a program or the provider is killed; a session may be cut and
   resumed; the provider may end or forget what it likes; one older copy of either folder is put back once.

     Single use     no piece of one seed masks two messages that the provider takes.
     LIAR           The same, though the provider says what it likes of busy, burnt and paired, begins any number of sessions on the chain and keeps all
                    that was sent; nothing is put back.
     UNDISTURBED    Where nothing is put back, no program finds that its chain was used or removed by another, and no row goes whose packs the provider
                    has. This needs HOLDS; single use does not rest on them: there are file systems that keep no locks.

   Each rule can be taken away by its name (ledger_test.py), and then an assertion fails. A piece counts where the provider's program takes it, not on its
   way there: that ends with the connection.                                                                                                       */
#define N 3                 /* pieces of the chain */
#define AHEAD(x) ((x) + 2 > N -> N : (x) + 2)    /* a stretch of two */
#define SEEDS 2
#define NONE SEEDS
#define LATER(a, b) ((a) > (b) -> (a) : (b))

mtype = { away, has_read, has_card, has_chosen, is_accepted, is_pairing, in_session };

typedef Row { bool there; byte seed, burnt };

Row user;                   /* on the user's disk */
Row provider;               /* on the provider's; seed 1: it has agreed on one with the helper, whichever */
byte seeds;                 /* so many were agreed on so far */
bool drawn;                 /* the chain's number */
byte masked;                /* bit of seed * N + piece: a message under it was taken */

typedef Program {
  mtype at = away;
  Row read;                 /* what the ledger had before the connection was made */
  bool known, paired;       /* what the provider said */
  byte said;                /* its mark */
  byte seed, used, burnt;   /* of a session */
  bool lost;
  byte sent                 /* on its way to the provider: piece + 1 */
};
Program program[2];
byte holder;                /* of the chain: program + 1 */

byte session;               /* at the provider: program + 1 */
byte used, burnt;           /* by it */

byte copied;                /* an older copy: 1 of the user's folder, 2 of the provider's; 3: it was put back */
Row copy;

#define ME program[i]
#define SAME (user.there == ME.read.there && user.seed == ME.read.seed && user.burnt == ME.read.burnt)
#ifdef UNDISTURBED
#define DISTURBED assert(false)
#else
#define DISTURBED skip
#endif

inline go_away(p) {
  d_step {
  program[p].at = away;
  program[p].read.there = false; program[p].read.seed = 0; program[p].read.burnt = 0;
  program[p].known = false; program[p].paired = false; program[p].said = 0;
  program[p].seed = 0; program[p].used = 0; program[p].burnt = 0;
  program[p].lost = false; program[p].sent = 0;
  if
  :: holder == p + 1 -> holder = 0
  :: else
  fi
  }
}

inline copy_row(to, from) { d_step { to.there = from.there; to.seed = from.seed; to.burnt = from.burnt } }

inline take_message(p, piece) {
  assert(!(masked & (1 << (program[p].seed * N + piece))));
  masked = masked | (1 << (program[p].seed * N + piece))
}

proctype User(byte i) {
  do
  :: atomic { ME.at == away -> copy_row(ME.read, user); ME.at = has_read }

  :: atomic { ME.at == has_read ->      /* the card */
#ifdef LIAR
       if :: ME.known = true :: ME.known = false fi;
       ME.at = has_card
#else
       ME.known = provider.there;
       if
       :: session -> go_away(i)         /* busy: it begins another chain, which does not matter here */
       :: else -> ME.at = has_card
       fi
#endif
     }

  :: atomic { ME.at == has_card ->
#ifdef NO_SNAPSHOT
       copy_row(ME.read, user);         /* read when the card is there */
#endif
       if
#ifdef HOLDS
       :: holder -> go_away(i)
       :: !holder ->
            holder = i + 1;
#else
       :: true ->
#endif
            if
            :: !ME.read.there && !ME.known && !drawn -> drawn = true; ME.at = has_chosen
            :: ME.read.there && ME.read.seed != NONE && ME.known && SAME -> ME.at = has_chosen
#ifdef NO_SAME
            :: ME.read.there && !ME.known && user.there ->
#else
            :: ME.read.there && !ME.known && SAME ->
#endif
#ifdef UNDISTURBED
                 assert(!(provider.there && provider.seed && user.seed != NONE));
#endif
                 user.there = false; user.seed = 0; user.burnt = 0;
                 go_away(i)
            :: else -> go_away(i)
            fi
       fi
     }

  :: atomic { ME.at == has_chosen ->    /* Agreement and Accepted */
#ifdef LIAR
       if :: ME.said = 0 :: ME.said = 1 :: ME.said = N - 1 fi;
       if :: ME.paired = ME.read.there :: ME.paired = false fi;
       ME.at = is_accepted
#else
       if
       :: session -> go_away(i)
       :: else ->
            ME.paired = provider.there && provider.seed && ME.read.there;
            provider.seed = ME.paired;
            provider.burnt = LATER(provider.burnt, ME.read.burnt);
            provider.there = true;
            session = i + 1; used = provider.burnt; burnt = provider.burnt;
            ME.said = provider.burnt;
            ME.at = is_accepted
       fi
#endif
     }

  :: atomic { ME.at == is_accepted ->   /* Ledger::add and change */
#ifdef OWN_MARK_ALONE
       ME.used = ME.read.burnt;
#else
#ifdef PROVIDERS_MARK_ALONE
       ME.used = ME.said;
#else
       ME.used = LATER(ME.read.burnt, ME.said);
#endif
#endif
       if
#ifdef NO_COMPARE_PUT
       :: true ->
#else
       :: !SAME -> DISTURBED; go_away(i)
       :: SAME ->
#endif
            user.there = true; user.burnt = ME.used;
            if
#ifdef NO_FRESH_SEED
            :: ME.paired || ME.read.there ->
#else
            :: ME.paired ->
#endif
                 user.seed = ME.read.seed; ME.seed = user.seed; ME.at = in_session
            :: else -> user.seed = NONE; ME.at = is_pairing
            fi;
            ME.burnt = ME.used;
            ME.read.there = false; ME.read.seed = 0; ME.read.burnt = 0; ME.known = false; ME.paired = false; ME.said = 0
       fi
     }

     /* both agree on a seed with the helper (Filler::pair, Chain::paired) */
  :: atomic { ME.at == is_pairing && session == i + 1 && !provider.seed -> provider.seed = 1 }
  :: atomic { ME.at == is_pairing && seeds < SEEDS ->
       if
#ifndef NO_COMPARE_PUT
       :: !(user.there && user.seed == NONE && user.burnt == ME.burnt) -> DISTURBED; go_away(i)
#endif
       :: else -> user.there = true; user.burnt = ME.burnt; user.seed = seeds; ME.seed = seeds; seeds++; ME.at = in_session
       fi
     }

     /* Burning::reach */
  :: atomic { ME.at == in_session && !ME.lost && ME.used < N &&
#ifdef USE_BEFORE_BURN
              ME.used > ME.burnt ->
#else
              ME.used == ME.burnt ->
#endif
       if
#ifdef NO_COMPARE_REACH
       :: true ->
#else
       :: user.there && user.burnt == ME.burnt ->
#endif
            ME.burnt = AHEAD(ME.used); user.burnt = ME.burnt
#ifndef NO_COMPARE_REACH
       :: else -> DISTURBED;
#ifdef USE_AFTER_LOSS
            ME.burnt = AHEAD(ME.used)
#else
            ME.lost = true
#endif
#endif
       fi
     }

     /* a pass */
  :: atomic { ME.at == in_session && !ME.lost && !ME.sent && ME.used < N &&
#ifdef USE_BEFORE_BURN
              ME.used <= ME.burnt ->
#else
              ME.used < ME.burnt ->
#endif
#ifdef LIAR
       take_message(i, ME.used);
#else
       if
       :: session == i + 1 -> ME.sent = ME.used + 1
       :: else             /* for a session that is gone */
       fi;
#endif
       ME.used++
     }

     /* A cut loses what is on its way, and the next connection brings it as it was: so it is late here and nothing more. */
#ifdef MADE_ANEW
  :: atomic { ME.at == in_session && session == i + 1 && ME.used > 0 && !ME.sent -> ME.sent = ME.used }
#endif

     /* Burning::~Burning */
  :: atomic { ME.at == in_session ->
       if
#ifdef NO_COMPARE_END
       :: !ME.lost && user.there && ME.used < ME.burnt -> user.burnt = ME.used
#else
       :: !ME.lost && user.there && ME.used < ME.burnt && user.burnt == ME.burnt -> user.burnt = ME.used
#endif
#ifdef TAKE_BACK_USED
       :: !ME.lost && user.there && ME.used == ME.burnt && ME.used > 0 && user.burnt == ME.burnt -> user.burnt = ME.used - 1
#endif
       :: else
       fi;
       go_away(i)
     }

  :: atomic { ME.at != away -> go_away(i) }   /* killed, or its connection was refused */
  od
}

#ifndef LIAR
proctype Provider() {
  byte i;
  do
  :: atomic { session && program[session - 1].sent ->
       i = session - 1;
       if
#ifdef PROVIDER_USES_BEFORE_BURN
       :: ME.sent > used -> take_message(i, ME.sent - 1); used = ME.sent; ME.sent = 0
#else
       :: ME.sent > burnt -> provider.burnt = AHEAD(ME.sent - 1); burnt = provider.burnt
       :: ME.sent <= burnt -> take_message(i, ME.sent - 1); used = ME.sent; ME.sent = 0
#endif
#ifdef MADE_ANEW
#ifdef PROVIDER_USES_BEFORE_BURN
       :: else -> ME.sent = 0
#endif
#endif
       fi;
       i = 0
     }
#ifdef PROVIDER_USES_BEFORE_BURN
  :: atomic { session && used > burnt -> provider.burnt = AHEAD(used - 1); burnt = provider.burnt }
#endif
     /* its end of a session: by the user's, by --idle, where no next connection came */
  :: atomic { session ->
       i = session - 1;
       ME.sent = 0;
       if :: used < burnt -> provider.burnt = used :: else fi;
       session = 0; used = 0; burnt = 0; i = 0
     }
     /* killed, and started again */
  :: atomic { true ->
       session = 0; used = 0; burnt = 0;
       program[0].sent = 0; program[1].sent = 0;
       if :: program[0].at == has_card || program[0].at == has_chosen -> go_away(0) :: else fi;
       if :: program[1].at == has_card || program[1].at == has_chosen -> go_away(1) :: else fi
     }
     /* its files are lost or damaged, or others took their room */
  :: atomic { !session && provider.there -> provider.there = false; provider.seed = 0; provider.burnt = 0 }
  od
}

proctype World() {
  do
  :: atomic { !copied -> copied = 1; copy_row(copy, user) }
  :: atomic { !copied -> copied = 2; copy_row(copy, provider) }
     /* while no program of the folder runs */
  :: atomic { copied == 1 && program[0].at == away && program[1].at == away -> copied = 3; copy_row(user, copy); copy.there = false; copy.seed = 0; copy.burnt = 0 }
  :: atomic { copied == 2 && !session && program[0].at != has_card && program[0].at != has_chosen && program[1].at != has_card && program[1].at != has_chosen ->
       copied = 3; copy_row(provider, copy); copy.there = false; copy.seed = 0; copy.burnt = 0 }
  od
}
#endif

init {
  atomic {
    run User(0); run User(1);
#ifndef LIAR
    run Provider();
#ifndef UNDISTURBED
    run World()
#endif
#endif
  }
}
