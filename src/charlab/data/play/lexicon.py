"""The words of the plays.

Words are grouped by meter, a string over "x" (unstressed syllable), "/" (stressed) and "*" (either). No word may be a
prefix of another in the same place, since the text has to show which one was chosen (`Choice` enforces this).
"""

# Words that rhyme; their forms in -s rhyme with one another as well. A word in no row never ends a line.
RHYMES = {
    "ight": "night light sight knight plight right might bright white slight spite delight fight invite write smite",
    "ay": "day way clay ray prey gay gray pay slay sway pray stay betray delay decay obey array dismay",
    "art": "heart art dart part cart smart impart depart",
    "ove": "love dove glove prove move remove approve",
    "ear": "tear fear ear year spear hear cheer dear clear severe sincere austere revere appear",
    "y": "eye sky sigh lie cry spy die fly high shy sly try deny defy",
    "ain": "pain rain reign chain stain vein vain plain gain drain brain disdain domain refrain sustain remain "
    "complain",
    "air": "air hair care heir prayer snare fair rare spare bare share despair repair compare",
    "ed": "head bed bread thread dead red dread wed shed",
    "o": "woe foe snow bow low slow show know throw grow flow glow bestow",
    "ame": "name flame shame fame game dame lame tame blame claim inflame proclaim",
    "ord": "lord sword cord accord reward afford",
    "own": "crown town gown clown drown brown frown renown",
    "ell": "bell spell shell cell well fell knell tell quell dwell repel compel rebel",
    "ee": "sea tree knee bee key free thee me plea flee decree degree liberty majesty melody tyranny constancy enemy "
    "ecstasy remedy mystery victory destiny agony prophecy harmony history vanity cruelty charity piety canopy",
    "eep": "sleep deep weep keep steep sheep reap",
    "een": "queen scene green keen mean serene unseen",
    "eam": "dream stream gleam beam cream esteem redeem",
    "ine": "wine shrine sign vine line fine divine benign shine pine design decline",
    "ind": "mind wind kind blind find bind unkind hind rind",
    "ore": "shore door store war sore floor adore deplore implore restore",
    "orn": "morn thorn scorn horn corn forlorn mourn torn",
    "oom": "doom tomb gloom womb room groom bloom perfume consume entomb",
    "ood": "blood flood mud bud",
    "ong": "song wrong throng strong long prolong",
    "oon": "moon tune noon boon swoon",
    "ade": "maid shade blade glade aid fade afraid persuade upbraid invade",
    "ate": "fate gate state hate great late mate await create",
    "ave": "grave wave slave knave cave brave save crave",
    "and": "hand land band sand grand strand command withstand",
    "ide": "pride bride tide side guide hide wide abide chide deride",
    "old": "gold cold bold old fold hold behold unfold",
    "our": "hour power tower flower bower devour",
    "irth": "earth birth worth mirth",
    "all": "wall hall fall ball small tall call enthrall recall",
    "est": "breast rest guest jest nest quest blest crest arrest detest unrest",
    "ace": "face grace place race embrace disgrace",
    "ing": "king ring spring wing sing bring string",
    "ess": "press bless distress oppress possess caress confess address",
    "ead": "deed seed steed weed heed plead bleed feed need lead",
    "ake": "snake lake rake wake break shake awake forsake",
    "oak": "oak cloak yoke smoke stroke broke joke invoke provoke",
    "one": "stone bone throne groan moan lone unknown alone own",
    "il": "hill will ill still kill fill chill",
    "eal": "steel wheel heel feel steal heal reveal conceal appeal zeal",
    "ale": "vale tale gale sail nail pale stale frail fail assail prevail",
}

# Nouns that follow "the" in the singular, and nouns that follow it in the plural. Where the article leaves the
# number open, both lists are options, so no singular may be a prefix of a plural.
SINGULAR_NOUNS = {
    "/": "heart crown night light day way sword grave rose throne storm dream flame name face fate moon sea sky song "
    "tongue ghost ring king queen knight maid fool thief knave bride dove wolf snake tree thorn vine shore gate "
    "tower flower hour doom tomb shade blade chain cup kiss oath crime grief joy love hate hope rage wrath pride "
    "shame scorn grace truth youth death breath sleep mind soul blood flood fire wind rain snow frost spring dawn "
    "earth birth mirth worth dust glass bell spell drum harp lute page world town wall hall door bed bread wine "
    "feast guest nest quest war peace law debt pearl robe veil mask boon tune noon land dart pain air snare woe game "
    "gloom bud throng state bough brook cave dew fox fruit hawk hymn isle lamb lamp lark leaf mist oak path plague "
    "priest reed root saint seed shell shield skull smoke spark stag steed stone swan torch verse voice wheel witch "
    "wreath yoke lake vale gale place scene shrine bower key plot line crest morn prey ash cliff coast curse grain "
    "grape mill nymph pine pond quill realm slope spine thirst truce vault wheat whip wish yew strife charm scourge "
    "dirge quince fern glen knoll moor marsh loom thread spade helm",
    "/x": "sorrow empire shadow beauty honor anger mercy virtue treason slumber fortune summer winter heaven ocean "
    "river mountain garden forest meadow castle altar temple candle mirror dagger banner trumpet letter riddle fable "
    "promise laughter folly passion patience pleasure treasure danger hunger fever poison ransom burden marriage "
    "widow father mother sister daughter monarch tyrant jester bishop falcon raven sparrow eagle serpent dragon lion "
    "spider lily willow blossom apple honey silence thunder tempest evening twilight torment conscience reason "
    "justice nature glory battle jewel vessel wisdom anchor anthem autumn banquet casket chapel coffin comet coral "
    "cradle darkness dungeon fortress fountain garland goblet harbor harvest island ladder lantern mantle marble "
    "midnight minstrel needle nettle orchard palace phantom planet poppy pillow quarrel scepter spirit tavern "
    "torrent valley vapor vengeance village vision voyage water weapon wonder portal basil circle clover cobweb "
    "cottage creature cuckoo curtain cypress diamond envy error exile fiddle furnace hazel hunter idol insult locket "
    "manor mischief pardon parlor pebble penance pigeon potion pulpit rapture ribbon ruby sapphire scholar sonnet "
    "statue swallow teacher thistle thicket tiger verdict villain vulture wedding witness rapier nectar prophet "
    "princess pauper parson heron hatchet hermit herald gallows furrow dowry chalice chimney bramble bosom barley "
    "bargain ballad ivy",
    "x/": "desire delight despair disdain deceit disgrace command revenge repose renown design delay decay esteem "
    "defeat remorse eclipse device retreat perfume regret belief reward abyss abode accord alarm attire conceit "
    "contempt decree demand descent distress domain intent mischance mistrust offense pursuit rebuke refrain relief "
    "report resolve restraint revolt success unrest appeal degree assault conquest dispute estate lament return "
    "salute support consent escape bequest decline caress repute defense ascent",
    "/x/": "majesty melody tyranny constancy enemy ecstasy remedy mystery victory destiny agony liberty prophecy "
    "innocence argument sacrifice paradise wilderness emperor messenger harmony history vanity cruelty charity piety "
    "canopy monument sentinel sorcerer wanderer pestilence labyrinth hurricane diadem alchemist amulet cavalier "
    "character chariot citadel comedy counselor crocodile elephant elixir epitaph garrison gentleman governor "
    "masquerade minister murderer orator poetry rosary scimitar scorpion solitude tapestry tragedy traveler",
    "x/x": "affection ambition devotion perfection confession temptation damnation rebellion companion physician "
    "magician enchantment betrayal misfortune tomorrow assassin dominion opinion compassion deception destruction "
    "forgiveness invention oppression procession protector redemption reflection religion remembrance repentance "
    "suspicion apprentice attendant believer creation creator deceiver defender destroyer disaster disciple dishonor "
    "intruder injustice offender offering pretender tormentor seducer",
}
PLURAL_NOUNS = {
    "/": "star tear eye lip arm word god wave year bone cloud hand sigh bird heir friend foe ship beam deed stream "
    "wood hill tide spear lord vow wound wing cry string cheek brow vein rock field pang limb thought prayer hair "
    "sail tale weed knee wrong branch clown coin gull herb horn rogue rope shoe squire troop twin nun oar sleeve",
    "/x": "whisper dancer petal ember feather finger soldier sinner angel devil cousin neighbor arrow servant pilgrim "
    "shepherd beggar cannon chamber moment token berry duty rumor",
}
MASS_NOUNS = (
    "rage wrath pride shame scorn youth death breath blood rain snow frost earth birth mirth worth dust bread wine "
    "peace gloom honor anger mercy laughter patience hunger honey thunder twilight justice nature glory wisdom "
    "despair disdain deceit renown decay esteem remorse tyranny constancy liberty innocence damnation love hate "
    "tomorrow conscience silence slumber dew mist smoke air contempt restraint unrest success darkness vengeance "
    "water midnight compassion destruction forgiveness oppression redemption repentance piety cruelty charity "
    "attire prey marble barley nectar penance poetry solitude"
)
POSSESSORS = {"/": "child's sun's time's", "/x": "brother's woman's prince's miser's orphan's captain's stranger's"}

ADJECTIVES = {
    "*": "sweet fair dear cold pale dark bright proud false true kind blind wild brave bold fond soft sad glad mad "
    "deep sharp swift slow rich poor rough wise young old grim bare pure rare high low strong long sick just lost "
    "vain plain green gray white red black chaste strange stern meek free wide sore fine keen lame small tall shy "
    "blithe calm coy dull faint fierce fresh frail full gaunt great hard harsh hot huge lean loud mute numb quick "
    "rank raw ripe sly smooth stout sure thick thin vile weak stale blest apt brief brisk broad clean dense dire dry "
    "firm frank hoarse hushed lone nice rash scarce sheer shrewd shrill staunch strict tough vast wan wet wry",
    "/x": "gentle noble bitter weary golden silver silent sacred holy wicked cruel tender merry mournful faithful "
    "ruthless restless frozen broken stolen hidden fatal mortal royal loyal jealous ancient crooked sullen humble "
    "haughty stubborn simple subtle hollow purple crimson dreadful wretched blessed savage honest modest constant "
    "gallant valiant distant sudden heavy wintry hungry idle bashful weeping smiling dying burning trembling roaring "
    "quiet barren bleeding brazen brittle careless clever comely common cunning dainty dauntless drowsy empty "
    "endless evil famous feeble fickle flaming fleeting fragile frantic gaudy ghastly giddy guilty helpless icy iron "
    "laden leaden little lofty lusty mellow mighty moody naked narrow nimble open patient pensive perfect pious "
    "pleasant pretty precious princely rosy rugged rustic secret shallow slender sober solemn splendid spotless "
    "sturdy thankless timid tragic vacant velvet wealthy winsome wistful withered active ample angry anxious ardent "
    "artful artless baleful balmy baneful blameless blighted boundless changeless chilly crafty craven dancing "
    "daring darling dashing dimpled dismal doleful doubtful dreary dusky eager errant fallen fearless fertile "
    "fervent festive fitful flawless fretful frugal glowing grateful greedy haggard hapless happy harmless hasty "
    "hellish homeless horrid hostile hurtful jaunty jesting knavish laughing lavish learned living luckless luscious "
    "manly martial matchless mocking",
    "x/": "divine unkind serene sincere severe profound forlorn unseen supreme extreme unknown untrue unjust remote "
    "obscure adverse austere benign corrupt demure devout discreet immense perverse sublime unclean unloved unmoved "
    "unsung untold unwise aloof condemned enraged exiled forsworn humane morose resigned secure unarmed unborn "
    "unchaste uncouth undone unkempt unmasked unsaid unsought unwed upright",
    "/x/": "glorious delicate desolate violent fortunate venomous arrogant amorous barbarous beautiful bountiful "
    "envious furious generous hideous infinite insolent merciful ominous perilous pitiful radiant resolute virtuous "
    "absolute blasphemous covetous despicable dissolute eloquent excellent frivolous gluttonous gracious impudent "
    "indolent intricate jubilant lecherous luminous lunatic miserable murderous mutinous obdurate obstinate opulent "
    "penitent petulant piteous prosperous ruinous scandalous slanderous sumptuous timorous treacherous turbulent "
    "valorous venerable villanous",
    "x/x": "immortal eternal majestic heroic unhappy forgotten forbidden enchanted triumphant impatient angelic "
    "unworthy almighty celestial defiant enduring infernal malicious prophetic rebellious relentless tormented "
    "undaunted undying unholy unruly untimely abandoned ambitious audacious auspicious bewildered belated beloved "
    "benighted betrothed capricious complaining consoling courageous dejected delicious departing devoted ecstatic "
    "enamored enormous exalted ferocious forbearing gigantic imperfect imploring inconstant indignant inhuman "
    "insatiate perpetual rapacious resplendent seductive submissive suspicious tenacious tremendous uncertain "
    "unchanging unending unequal unfailing unfeeling unfettered unguarded unheeded unlawful unlovely unsullied "
    "unwilling unyielding vindictive vivacious voracious",
}
COMPOUND_ADJECTIVES = {"/x": "ill-starred long-lost new-born high-born soft-eyed pale-faced sweet-voiced cold-lipped"}
PREDICATES = {"*": "dead torn late", "x/": "afraid alone asleep"}

TRANSITIVE_VERBS = {
    "/": "love hate fear hear keep hold hide seek find lose break curse bless kiss praise blame mock scorn wound heal "
    "save steal chase guard guide serve crown drown bind blind haunt tempt tame call greet slay shun trust know warn "
    "judge cheat charm crave prove move spare claim dread wed taste touch shed wrong stain aid bathe bend bring "
    "bruise build buy cast catch change choose clasp crush cure deck drain draw drive ease feed feel fill fight "
    "force fold gain gild give grant grasp harm hunt hurt join kill lead leave lend lift lure mend miss name nurse "
    "pay pierce please pledge pluck press quell quench raise rob rouse rule search seize send shake share shield "
    "show smite soothe spend spill spurn sting strike take teach tell thank throw toss try turn urge vex watch weave "
    "woo wreck write",
    "/x": "follow conquer honor worship cherish nourish punish banish ruin murder slander flatter comfort pity pardon "
    "envy marry bury carry gather scatter kindle smother poison trouble torture question answer summon welcome "
    "measure silence soften darken borrow swallow shadow baffle challenge cover dazzle fetter frighten govern hinder "
    "humble injure master menace muffle pilfer plunder polish quicken ravish rescue season shelter squander strangle "
    "sweeten temper threaten trample treasure utter vanquish visit waken weary witness",
    "x/": "betray forgive adore admire embrace desire forget deceive believe receive defy deny destroy devour despise "
    "disdain enchant endure enslave pursue possess protect reveal conceal redeem reward refuse remove restore "
    "implore inspire invite obey offend defend delight condemn confess confound command consume await avenge abhor "
    "accuse adorn amaze arrest behold bewitch sustain surround unfold upbraid absolve afflict allure appease assail "
    "attend avoid bewail beguile beseech betroth caress compel console corrupt create deplore deride detest disarm "
    "dismay disturb engrave enjoy enrage enrich ensnare entice entomb entreat espouse exalt excuse express foretell "
    "fulfill ignore impart inflame insult invade invoke lament neglect observe oppress outlive perceive persuade "
    "perplex preserve proclaim prolong provoke recall reject release renounce repel report resist revere revive "
    "salute seduce subdue suspect transform unmask usurp",
    "x/x": "remember abandon imagine dishonor encounter deliver discover imprison inherit admonish astonish consider "
    "demolish diminish entangle extinguish relinquish surrender unravel",
}
INTRANSITIVE_VERBS = {
    "/": "weep sleep sing dance laugh smile sigh die live fall rise fade bloom grow bleed dream wait stand stay fly "
    "flow glow shine pine kneel pray speak rave roar swoon yield fail melt droop burn reign bow creep faint groan "
    "moan plead run sail sink soar starve sway yearn",
    "/x": "wander tremble vanish perish linger whisper flourish wither languish slumber suffer stumble prosper "
    "glitter hasten falter flutter hover labor quarrel quiver sparkle stagger travel triumph waver",
    "x/": "depart despair decay decline repent return rejoice remain rebel relent arise appear complain conspire "
    "expire ascend abide delay prevail awake carouse descend dissolve escape rely retire submit",
}
PARTICIPLES = {
    "/": "lost won kept crowned slain loved mocked cursed blessed wronged found sought sold drowned scorned bought "
    "called caught charmed chased crushed feared forged given healed held kissed known praised ruled saved seen "
    "served shunned spared spurned stained taught touched vexed warned wed wooed",
    "/x": "broken stolen conquered poisoned murdered hidden chosen taken shaken banished buried followed honored "
    "pardoned pitied ruined slandered summoned welcomed",
    "x/": "betrayed adored deceived forgot destroyed devoured despised possessed revealed consumed condemned admired "
    "amazed avenged bewitched concealed confessed defied denied embraced enslaved obeyed pursued redeemed refused "
    "restored",
    "x/x": "forgiven enchanted forsaken abandoned remembered delivered discovered imprisoned",
}
OBJECT_PRONOUNS = {"*": "thee him us them"}

EPITHETS = (
    "gentle noble cruel lovely worthy honest tender valiant constant faithful wicked jealous royal humble haughty "
    "merry gallant foolish subtle modest golden lonely holy stubborn peerless reckless"
).split()
CITIES = (
    "Padua Mantua Lombardy Burgundy Elsinore Syracuse Ephesus Antioch Italy Sicily Muscovy Hungary Normandy Picardy "
    "Albany Zanzibar Thessaly Barbary"
).split()
MEN = {
    "/x": "Hamlet Duncan Edgar Brutus Yorick Jaques Feste Angus Lennox Henry Richard William Osric Tybalt Pistol "
    "Titus Timon Oswald Quentin",
    "/x/": "Romeo Antony Valentine Ferdinand Caliban Benedick Florizel Pericles Xenophon Dromio Gremio Montague Julius",
}
WOMEN = {
    "/x": "Hero Portia Thisbe Audrey Phebe Regan Gertrude Hermia Celia Helen Zara",
    "/x/": "Juliet Rosalind Imogen Goneril Katherine Isabel Emily Beatrice Margaret Jessica Viola Ursula",
}
